package sharding

import "testing"

func TestAddressesOfShardsDifferByTheirPortAlone(t *testing.T) {
	for _, c := range []struct {
		addr  string
		shard int
		want  string // "": none
	}{
		{"h:8081", 0, "h:8081"}, {"h:8081", 1, "h:8091"}, {"[::1]:8081", 15, "[::1]:8231"}, {"10.0.0.1:65525", 1, "10.0.0.1:65535"},
		{"h:0", 0, "h:0"}, {"h:0", 1, ""}, {"h", 1, ""}, {"h:65526", 1, ""}, {"h:http", 2, ""},
		{"h:8091", -1, "h:8081"}, {"h:8", -1, ""},
	} {
		if got, err := Address(c.addr, c.shard); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("shard %d of %s: %q, %v", c.shard, c.addr, got, err)
		}
	}
}
