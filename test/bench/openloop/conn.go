// Package openloop puts load on a server that does not wait for its answers: calls
// leave when their time has come, however late those before them are. It writes its
// HTTP/2 by itself, because a call must cost less here than there; what it sends is what
// an official client sends.
package openloop

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	largestFrame = 16 << 10 // what HTTP/2 allows without asking
	ourWindow    = 1 << 30
)

// Headers of a call beside those that gRPC needs.
type Headers [][2]string

// conn is one connection of HTTP/2. Frames are written by one goroutine, which also
// answers what the reader found.
type conn struct {
	net.Conn
	out    *bufio.Writer
	framer *http2.Framer // writes
	in     *http2.Framer // reads

	window    atomic.Int64 // bytes that the server takes of this connection
	streams   atomic.Int64 // calls that it takes at once
	consumed  atomic.Int64 // bytes to be given back
	settings  atomic.Bool  // to be acknowledged
	pings     chan [8]byte // to be answered
	next      uint32       // id of the next stream
	onMessage func(stream uint32, message []byte)
	onEnd     func(stream uint32, status string)
	parts     map[uint32][]byte // of messages that came in pieces
}

func dial(addr string) (*conn, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, pings: make(chan [8]byte, 16), next: 1, parts: map[uint32][]byte{}}
	c.out = bufio.NewWriterSize(nc, 8<<10)
	c.framer = http2.NewFramer(c.out, nil)
	c.in = http2.NewFramer(nil, bufio.NewReaderSize(nc, 4<<10))
	c.in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.in.SetReuseFrames()
	c.window.Store(65535)
	c.streams.Store(100)
	c.out.WriteString(http2.ClientPreface)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: ourWindow})
	c.framer.WriteWindowUpdate(0, ourWindow)
	return c, c.out.Flush()
}

// read handles frames until the connection ends.
func (c *conn) read() error {
	for {
		f, err := c.in.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				break
			}
			f.ForeachSetting(func(s http2.Setting) error {
				if s.ID == http2.SettingMaxConcurrentStreams {
					c.streams.Store(int64(s.Val))
				}
				return nil
			})
			c.settings.Store(true)
		case *http2.PingFrame:
			if !f.IsAck() {
				c.pings <- f.Data
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				c.window.Add(int64(f.Increment))
			}
		case *http2.DataFrame:
			c.consumed.Add(int64(f.Length))
			c.data(f.StreamID, f.Data())
			if f.StreamEnded() {
				c.onEnd(f.StreamID, "ended without a status")
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				status := "0"
				for _, h := range f.Fields {
					if h.Name == "grpc-status" {
						status = h.Value
					}
				}
				delete(c.parts, f.StreamID)
				c.onEnd(f.StreamID, status)
			}
		case *http2.RSTStreamFrame:
			delete(c.parts, f.StreamID)
			c.onEnd(f.StreamID, "reset: "+f.ErrCode.String())
		case *http2.GoAwayFrame:
			return fmt.Errorf("the server goes away: %v %s", f.ErrCode, f.DebugData())
		}
	}
}

// data hands on the messages in it.
func (c *conn) data(stream uint32, b []byte) {
	if part := c.parts[stream]; len(part) > 0 {
		b = append(part, b...)
	}
	for len(b) >= 5 {
		n := int(b[1])<<24 | int(b[2])<<16 | int(b[3])<<8 | int(b[4])
		if len(b) < 5+n {
			break
		}
		c.onMessage(stream, b[5:5+n])
		b = b[5+n:]
	}
	if len(b) > 0 {
		c.parts[stream] = bytes.Clone(b)
	} else {
		delete(c.parts, stream)
	}
}

// answer writes what the reader left to be written.
func (c *conn) answer() {
	if c.settings.Swap(false) {
		c.framer.WriteSettingsAck()
	}
	if n := c.consumed.Load(); n > ourWindow/4 {
		c.consumed.Add(-n)
		c.framer.WriteWindowUpdate(0, uint32(n))
	}
	for {
		select {
		case p := <-c.pings:
			c.framer.WritePing(true, p)
		default:
			return
		}
	}
}

// block encodes headers of a call, once with names and values to be remembered by the
// server and once as all later calls can say the same.
func block(method, addr string, more Headers) (first, later []byte) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	encode := func() []byte {
		b.Reset()
		for _, h := range append(Headers{
			{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", addr},
			{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "grpc-go/1.80.0"},
		}, more...) {
			e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		return bytes.Clone(b.Bytes())
	}
	return encode(), encode()
}

// framed is a message as gRPC has it on the wire.
func framed(message []byte) []byte {
	n := len(message)
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// call writes a call with one message.
func (c *conn) call(headers, message []byte) {
	stream := c.next
	c.next += 2
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: headers, EndHeaders: true})
	c.window.Add(-int64(len(message)))
	for len(message) > largestFrame {
		c.framer.WriteData(stream, false, message[:largestFrame])
		message = message[largestFrame:]
	}
	c.framer.WriteData(stream, true, message)
}
