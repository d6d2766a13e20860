package brokertest

import (
	"net"

	"github.com/gantry-mq/gantry/internal/sharding"
)

// FreeAddrs returns count addresses on loopback that nobody listens on, nor on those of
// the further shards that belong to them.
func FreeAddrs(t tester, count, shards int) (all []string) {
	t.Helper()
	var taken []net.Listener
	defer func() {
		for _, l := range taken {
			l.Close()
		}
	}()
	for tries := 0; len(all) < count; tries++ {
		if tries == 1000 {
			t.Fatal("no free ports were found")
		}
		addr, free := "127.0.0.1:0", true
		for shard := range shards {
			at, err := sharding.Address(addr, shard)
			if err == nil {
				var l net.Listener
				if l, err = net.Listen("tcp", at); err == nil {
					taken = append(taken, l)
					if shard == 0 {
						addr = l.Addr().String()
					}
				}
			}
			free = free && err == nil
		}
		if free {
			all = append(all, addr)
		}
	}
	return all
}
