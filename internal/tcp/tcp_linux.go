package tcp

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// boundUntaken ends c when what was sent is not taken for so long. Without it TCP
// tries for a quarter of an hour, and does not probe meanwhile.
func boundUntaken(c *net.TCPConn, d time.Duration) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err == nil {
		err = set
	}
	return err
}
