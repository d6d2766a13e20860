package peer

import (
	"fmt"
	"net"
	"sync/atomic"
)

// Bounds of what raft reads from one connection between two of its own writes.
const (
	// MaxRPC has room for the entries that are sent at once, see maxAppend, or a single
	// one of any size that the log takes, and what is around them.
	MaxRPC = 80 << 20
	// MaxSnapshot is for the RPC that a snapshot follows, the snapshot included.
	MaxSnapshot = 4 << 30
	// MaxAnswer is for what answers an RPC: a few numbers.
	MaxAnswer = 1 << 20
)

// limitedConn fails when the other side goes on sending where it should wait for an
// answer. raft decodes msgpack from a connection with no bound of its own; but it
// reads one RPC, writes its answer, and only then reads the next, and as a client
// the same with the roles changed. So a Write is the boundary between messages, and
// the bytes between two Writes are one message, but for the 256 KiB that raft's
// buffered reader may have read ahead.
//
// Guaranteed is: one RPC makes the decoder read no more than max and 256 KiB, or
// snapshot and 256 KiB for one that begins like a snapshot's. The decoder
// allocates as it reads, not by the lengths it is told. A peer that means harm can
// make it allocate a hundred times what it reads (an empty entry is a byte); against
// that there is the certificate, not this.
type limitedConn struct {
	net.Conn
	max, snapshot int64        // bounds of read
	read          atomic.Int64 // since the last Write
	end           atomic.Int64 // which of the two it is now
}

// rpcInstallSnapshot is raft's first byte of the RPC that a snapshot follows.
const rpcInstallSnapshot = 2

func (c *limitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	total := c.read.Add(int64(n))
	if total == int64(n) {
		c.end.Store(c.max)
		if p[0] == rpcInstallSnapshot {
			c.end.Store(c.snapshot)
		}
	}
	if end := c.end.Load(); total > end {
		c.Conn.Close()
		return 0, fmt.Errorf("peer: %s sent more than %d bytes without waiting for an answer", c.RemoteAddr(), end)
	}
	return n, err
}

func (c *limitedConn) Write(p []byte) (int, error) {
	c.read.Store(0)
	return c.Conn.Write(p)
}
