// Package tcp is what the standard library does not offer of a TCP connection.
package tcp

import (
	"net"
	"time"
)

// Keepalive ends c when the other end is silent, or takes nothing of what was
// sent, for about after + n*every. On other systems than Linux it bounds silence
// only.
func Keepalive(c *net.TCPConn, after, every time.Duration, n int) error {
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: after, Interval: every, Count: n}); err != nil {
		return err
	}
	return boundUntaken(c, after+time.Duration(n)*every)
}
