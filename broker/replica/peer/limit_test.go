package peer

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// fed is a connection whose other side has sent b.
type fed struct {
	net.Conn
	b *bytes.Reader
}

func (f fed) Read(p []byte) (int, error)  { return f.b.Read(p) }
func (f fed) Write(p []byte) (int, error) { return len(p), nil }
func (f fed) Close() error                { return nil }
func (f fed) RemoteAddr() net.Addr        { return advertised{Address{Peer: "n2"}} }

func TestWhoSendsOnWithoutWaitingForAnAnswerIsCutOff(t *testing.T) {
	for what, c := range map[string]struct {
		messages []int // their lengths; a Write is after each
		first    byte
		ok       bool
	}{
		"up to the bound":      {[]int{100}, 0, true},
		"beyond it":            {[]int{101}, 0, false},
		"many, answered":       {[]int{100, 100, 7, 100}, 0, true},
		"the last too long":    {[]int{100, 100, 101}, 0, false},
		"a snapshot is longer": {[]int{900}, rpcInstallSnapshot, true},
		"and has a bound":      {[]int{901}, rpcInstallSnapshot, false},
	} {
		conn := &limitedConn{max: 100, snapshot: 900}
		var err error
		for _, n := range c.messages {
			m := append([]byte{c.first}, make([]byte, n-1)...)
			conn.Conn = fed{b: bytes.NewReader(m)}
			// One byte at a time or all at once: no matter how the network cuts it.
			if _, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{conn}, make([]byte, 1+n%2*n)); err != nil {
				break
			}
			conn.Write([]byte("answer"))
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	conn := &limitedConn{Conn: fed{b: bytes.NewReader(append([]byte{rpcInstallSnapshot}, make([]byte, 499)...))}, max: 100, snapshot: 900}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error(err)
	}
	conn.Write(nil)
	conn.Conn = fed{b: bytes.NewReader(make([]byte, 101))}
	if _, err := io.Copy(io.Discard, conn); err == nil {
		t.Error("the bound of a snapshot held for the RPC after it")
	}
}
