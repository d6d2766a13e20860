package stream

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/internal/tcp"
	"github.com/gantry-mq/gantry/proto/wire"
)

// Conn is one call of Streams.Consume or Streams.Publish on a connection of its own,
// without HTTP/2, which cuts what it carries into frames of 16 KiB: each is copied
// into a write buffer, out of a read buffer and together again. Here the kernel takes
// records from where they lie, the log's mapping or a producer's batch, and has it
// put where they stay.
//
//	client  "gantry.v1/Consume\n" or "gantry.v1/Publish\n"
//	server  the same, when it speaks this; a server that does not closes, or sends HTTP/2
//	then both, until one closes:
//	  off size
//	   0   1   kind    0 message, 1 end
//	   1   4   length  of what follows, big-endian
//	   5       a request or response of the call; with kind 1 the google.rpc.Status
//	           with which the server ends the call
//
// So a message is framed as gRPC frames it. One goroutine may send while another
// receives.
type Conn struct {
	c     net.Conn
	in    *bufio.Reader
	limit int // bytes of a message received
	claim int // and of memory it gets before it came

	// What SendLater holds back: for each message its head and then its pieces.
	vec   [][]byte
	heads []byte
	data  []mem.BufferSlice
	held  int // bytes
}

// Method is what a call does.
type Method string

// Methods that do without HTTP/2.
const (
	Consume Method = "Consume"
	Publish Method = "Publish"
)

func (m Method) opening() string { return "gantry.v1/" + string(m) + "\n" }

const (
	// OpeningByte is the first that a client sends. HTTP/2 begins with 'P', TLS with 0x16.
	OpeningByte = 'g'

	kindMessage = 0
	kindEnd     = 1
	headLen     = 5

	// readAhead is what is read with a head: of records little, because it is copied.
	readAhead = 4 << 10

	// requestLimit and requestClaim are limit and claim of a server for requests of
	// Consume. The largest, a Settle of 65,536 ranges, takes less.
	requestLimit = 4 << 20
	requestClaim = 64 << 10

	// PublishLimit bounds a request of Publish, in bytes; what a batch may have at most
	// is the broker's to say. A producer's usual batch gets its memory at once.
	PublishLimit = 20 << 20
	publishClaim = 512 << 10

	// holdBytes and holdVecs end what SendLater holds back; one writev takes 1,024.
	holdBytes = 256 << 10
	holdVecs  = 512
)

// Keepalive of both sides: a connection whose other end is silent, or takes
// nothing of what was sent, for 40 s is over.
const (
	probeAfter = 30 * time.Second
	probeEvery = 5 * time.Second
	probes     = 2
)

// ErrNotSpoken is a server that does not speak this.
var ErrNotSpoken = errors.New("stream: the server takes no call without HTTP/2")

// Open opens a call as a client does; limit bounds a message that it receives, in
// bytes. The caller bounds it by c's deadline, and closes c after an error.
func Open(c net.Conn, m Method, limit int) (*Conn, error) {
	if _, err := io.WriteString(c, m.opening()); err != nil {
		return nil, err
	}
	got, err := readOpening(c)
	if err == nil && got != m {
		err = fmt.Errorf("stream: asked to %s, the server is about to %s", m, got)
	}
	if err != nil {
		return nil, errors.Join(ErrNotSpoken, err)
	}
	return newConn(c, limit, limit), nil
}

// Accept takes a call that a client opened: it reads from r, which begins with
// OpeningByte, and goes on with c. The caller bounds it by c's deadline.
func Accept(r io.Reader, c net.Conn) (*Conn, Method, error) {
	m, err := readOpening(r)
	if err != nil {
		return nil, "", err
	}
	if _, err := io.WriteString(c, m.opening()); err != nil {
		return nil, "", err
	}
	if m == Publish {
		return newConn(c, PublishLimit, publishClaim), m, nil
	}
	return newConn(c, requestLimit, requestClaim), m, nil
}

func readOpening(r io.Reader) (Method, error) {
	b := make([]byte, len(Consume.opening())) // Publish has as many
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	for _, m := range []Method{Consume, Publish} {
		if string(b) == m.opening() {
			return m, nil
		}
	}
	return "", fmt.Errorf("stream: the connection begins with %q", b)
}

func newConn(c net.Conn, limit, claim int) *Conn {
	if t, ok := c.(*net.TCPConn); ok {
		tcp.Keepalive(t, probeAfter, probeEvery, probes) // what fails here fails at the first use as well
	}
	return &Conn{c: c, in: bufio.NewReaderSize(c, readAhead), limit: limit, claim: claim}
}

// SendMsg sends a message as a gRPC stream does, behind those that are held back.
func (c *Conn) SendMsg(m any) error {
	if err := c.hold(m); err != nil {
		return err
	}
	return c.Flush()
}

// SendLater is SendMsg for one message of many: it may be held back until the next
// SendMsg or Flush, so that small ones share a system call, and a wake-up of who
// reads them. A sender that runs out of messages must Flush.
func (c *Conn) SendLater(m any) error {
	if err := c.hold(m); err != nil {
		return err
	}
	if c.held < holdBytes && len(c.vec) < holdVecs {
		return nil
	}
	return c.Flush()
}

// Flush sends what is held back.
func (c *Conn) Flush() error {
	if c.held == 0 {
		return nil
	}
	v := net.Buffers(c.vec)
	_, err := v.WriteTo(c.c)
	for _, d := range c.data {
		d.Free()
	}
	clear(c.vec)
	clear(c.data)
	c.vec, c.heads, c.data, c.held = c.vec[:0], c.heads[:0], c.data[:0], 0
	return err
}

// End tells the client with which error the call ends; nil is none.
func (c *Conn) End(err error) error {
	if err == nil {
		return c.Flush()
	}
	b, err := proto.Marshal(status.Convert(err).Proto())
	if err != nil {
		return err
	}
	c.put(kindEnd, mem.BufferSlice{mem.SliceBuffer(b)})
	return c.Flush()
}

func (c *Conn) hold(m any) error {
	data, err := wire.Codec{}.Marshal(m)
	if err != nil {
		return err
	}
	c.put(kindMessage, data)
	return nil
}

// put holds a message back. Its head stays where it is when heads grows.
func (c *Conn) put(kind byte, data mem.BufferSlice) {
	n := len(c.heads)
	c.heads = binary.BigEndian.AppendUint32(append(c.heads, kind), uint32(data.Len()))
	c.vec = append(c.vec, c.heads[n:])
	for _, b := range data {
		c.vec = append(c.vec, b.ReadOnlyData())
	}
	c.data = append(c.data, data)
	c.held += headLen + data.Len()
}

// RecvMsg receives a message as a gRPC stream does. io.EOF: the other side has
// closed, or ended the call without an error. What is wrong with a message, and
// the error with which the other side ended the call, have a status; what is wrong
// with the connection has none.
func (c *Conn) RecvMsg(m any) error {
	h, err := c.in.Peek(headLen)
	if err != nil {
		if len(h) > 0 {
			err = cutShort(err)
		}
		return err
	}
	kind, n := h[0], int(binary.BigEndian.Uint32(h[1:]))
	c.in.Discard(headLen)
	switch {
	case kind != kindMessage && kind != kindEnd:
		return status.Errorf(codes.InvalidArgument, "what came is of kind %d, neither a message nor an end", kind)
	case n > c.limit:
		return status.Errorf(codes.ResourceExhausted, "a message of %d bytes, the limit is %d", n, c.limit)
	}
	buf, err := c.read(n)
	if err != nil {
		return err
	}
	if kind == kindMessage {
		switch r := m.(type) {
		case *ConsumeResponse:
			return malformed(r.read(buf))
		case *PublishRequest:
			return malformed(r.read(buf))
		}
	}
	defer buf.Release()
	if kind == kindMessage {
		return malformed(wire.Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(buf.B)}, m))
	}
	end := status.New(codes.OK, "").Proto()
	if err := proto.Unmarshal(buf.B, end); err != nil {
		return malformed(err)
	}
	return cmp.Or(status.ErrorProto(end), io.EOF)
}

// read reads n bytes. They are not given memory for them all until some have come:
// to announce them costs nothing.
func (c *Conn) read(n int) (*Buffer, error) {
	buf := GetBuffer(min(n, c.claim))
	for len(buf.B) < n {
		if len(buf.B) == cap(buf.B) {
			more := GetBuffer(min(n, 2*len(buf.B)))
			more.B = append(more.B, buf.B...)
			buf.Release()
			buf = more
		}
		from := len(buf.B)
		buf.B = buf.B[:min(n, cap(buf.B))]
		if _, err := io.ReadFull(c.in, buf.B[from:]); err != nil {
			buf.Release()
			return nil, cutShort(err)
		}
	}
	return buf, nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func malformed(err error) error {
	if err == nil {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "a message that cannot be read: %v", err)
}

// Close closes the connection. What was sent and is not received yet may be lost:
// see Linger.
func (c *Conn) Close() error { return c.c.Close() }

// Linger closes the connection when the client has closed it or the time is over,
// so that it gets what was sent last: a connection closed with something unread
// is reset.
func (c *Conn) Linger(d time.Duration) error {
	if t, ok := c.c.(*net.TCPConn); ok {
		defer time.AfterFunc(d, func() { c.c.Close() }).Stop()
		t.CloseWrite()
		io.Copy(io.Discard, t)
	}
	return c.c.Close()
}
