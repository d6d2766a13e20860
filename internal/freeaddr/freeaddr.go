// Package freeaddr finds ports for the servers of tests.
package freeaddr

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"

	"github.com/gantry-mq/gantry/internal/sharding"
)

// Of is Find for a test.
func Of(t interface {
	Helper()
	Fatal(...any)
}, count, shards int) []string {
	t.Helper()
	all, err := Find(count, shards)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Find returns count addresses on loopback that nobody listens on, nor on those of
// the further shards that belong to them. None is a port that Linux gives to outgoing
// connections: one of those could take it before the server that it is meant for does, or
// while that server is down.
func Find(count, shards int) (all []string, err error) {
	const lowest = 10_000
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, err
	}
	var outgoing int
	if _, err := fmt.Sscan(string(text), &outgoing); err != nil {
		return nil, fmt.Errorf("the range of ports of outgoing connections: %w", err)
	}
	if outgoing -= (shards - 1) * sharding.Step; outgoing <= lowest {
		return nil, fmt.Errorf("outgoing connections may have any port from %d", outgoing)
	}
	var taken []net.Listener // until all are found, so that all are different
	defer func() {
		for _, l := range taken {
			err = errors.Join(err, l.Close())
		}
	}()
	for range 1000 {
		if len(all) == count {
			return all, nil
		}
		addr, free := fmt.Sprint("127.0.0.1:", lowest+rand.IntN(outgoing-lowest)), true
		for shard := range shards {
			at, err := sharding.Address(addr, shard)
			if err != nil {
				return nil, err
			}
			l, err := net.Listen("tcp", at)
			if err == nil {
				taken = append(taken, l)
			}
			free = free && err == nil
		}
		if free {
			all = append(all, addr)
		}
	}
	return nil, errors.New("no free ports were found")
}
