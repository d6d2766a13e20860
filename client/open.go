package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// duplex is a stream of messages both ways: gRPC's, or one without HTTP/2.
type duplex interface {
	SendMsg(m any) error
	SendLater(m any) error // SendMsg, which may wait for Flush
	Flush() error
	RecvMsg(m any) error
}

// overHTTP2 is gRPC's. It gathers small messages itself.
type overHTTP2 struct{ grpc.ClientStream }

func (s overHTTP2) SendLater(m any) error { return s.SendMsg(m) }
func (overHTTP2) Flush() error            { return nil }

var (
	publishDesc = &gantryv1.Streams_ServiceDesc.Streams[0]
	consumeDesc = &gantryv1.Streams_ServiceDesc.Streams[1]
)

// openTimeout bounds how long a connection may take to be taken as a call.
const openTimeout = 3 * time.Second

// publish opens a Publish call, and consume a Consume call, which end with ctx.
func (c *Client) publish(ctx context.Context, at *shard) (duplex, error) {
	return c.call(ctx, at, stream.Publish, publishDesc, gantryv1.Streams_Publish_FullMethodName)
}

func (c *Client) consume(ctx context.Context, at *shard) (duplex, error) {
	return c.call(ctx, at, stream.Consume, consumeDesc, gantryv1.Streams_Consume_FullMethodName)
}

// call opens a call on a connection of its own where the broker takes that, else
// over gRPC.
func (c *Client) call(ctx context.Context, at *shard, m stream.Method, desc *grpc.StreamDesc, name string) (duplex, error) {
	if c.opts.TLS == nil && len(c.opts.DialOptions) == 0 && !at.http2.Load() {
		s, err := at.plain(ctx, m)
		if err == nil {
			return s, nil
		}
		if ctx.Err() == nil && errors.Is(err, stream.ErrNotSpoken) {
			at.http2.Store(true)
			c.log.Info("gantry: messages come over gRPC: something before the broker, or the broker, takes nothing else", "error", err)
		}
	}
	s, err := at.conn.NewStream(ctx, desc, name)
	if err != nil {
		return nil, err
	}
	return overHTTP2{s}, nil
}

// plain opens a call without HTTP/2. Which address to dial is gRPC's to know.
func (s *shard) plain(ctx context.Context, m stream.Method) (*stream.Conn, error) {
	var at peer.Peer
	if _, err := s.ask(ctx, grpc.Peer(&at)); err != nil {
		return nil, err
	}
	if at.Addr == nil {
		return nil, errors.New("gantry: gRPC does not say who answered")
	}
	d := net.Dialer{Timeout: openTimeout}
	conn, err := d.DialContext(ctx, at.Addr.Network(), at.Addr.String())
	if err != nil {
		return nil, fmt.Errorf("gantry: %w", err)
	}
	conn.SetDeadline(time.Now().Add(openTimeout))
	opened, err := stream.Open(conn, m, maxMessage)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	context.AfterFunc(ctx, func() { conn.Close() })
	return opened, nil
}
