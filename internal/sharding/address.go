// Package sharding says where the shards of a cluster are. Each is a broker with ports of
// its own, and who knows an address of one knows that of all others.
package sharding

import (
	"fmt"
	"net"
	"strconv"
)

// Step is what is between a port of a shard and that of the next one.
const Step = 10

// Max bounds the shards of a cluster.
const Max = 16

// Address is the address of a shard that is so many further than that of hostport: the
// same, with its port higher by Step for each.
func Address(hostport string, further int) (string, error) {
	if further == 0 {
		return hostport, nil
	}
	host, text, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	at := int(port) + further*Step
	if err != nil || port == 0 || at <= 0 || at > 65535 {
		return "", &net.AddrError{Err: fmt.Sprintf("a shard's port is another one's and %d", further*Step), Addr: hostport}
	}
	return net.JoinHostPort(host, strconv.Itoa(at)), nil
}
