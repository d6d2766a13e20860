package api

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// streamOf is the client's side of a call, whatever carries it.
type streamOf[Req, Resp any] interface {
	Send(*Req) error
	Recv() (*Resp, error)
	SendMsg(any) error
	RecvMsg(any) error
	CloseSend() error
}

type (
	consumeClient = streamOf[gantryv1.ConsumeRequest, gantryv1.ConsumeResponse]
	publishClient = streamOf[gantryv1.PublishRequest, gantryv1.PublishResponse]
)

type plainClient[Req, Resp any] struct {
	*stream.Conn
	c *net.TCPConn
}

func dialPlain[Req, Resp any](ctx context.Context, addr string, m stream.Method) (streamOf[Req, Resp], error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { c.Close() })
	s, err := stream.Open(c, m, 32<<20)
	return plainClient[Req, Resp]{s, c.(*net.TCPConn)}, err
}

func (p plainClient[Req, Resp]) Send(r *Req) error { return p.SendMsg(r) }
func (p plainClient[Req, Resp]) CloseSend() error  { return p.c.CloseWrite() }
func (p plainClient[Req, Resp]) Recv() (*Resp, error) {
	r := new(Resp)
	return r, p.RecvMsg(r)
}

func (f *fixture) dialConsume(ctx context.Context) (consumeClient, error) {
	if f.plain {
		return dialPlain[gantryv1.ConsumeRequest, gantryv1.ConsumeResponse](ctx, f.addr, stream.Consume)
	}
	return f.streamsClient().Consume(ctx)
}

func (f *fixture) dialPublish(ctx context.Context) (publishClient, error) {
	if f.plain {
		return dialPlain[gantryv1.PublishRequest, gantryv1.PublishResponse](ctx, f.addr, stream.Publish)
	}
	return f.streamsClient().Publish(ctx)
}

// withoutHTTP2 makes the streams of fixtures do without.
var withoutHTTP2 bool

func TestConsumingWithoutHTTP2IsTheSame(t *testing.T) {
	withoutHTTP2 = true
	defer func() { withoutHTTP2 = false }()
	for name, test := range map[string]func(*testing.T){
		"read by offset":    TestMessagesOfBothDoorsAreReadByOffset,
		"filtered":          TestMatchingNeighboursAreOneRun,
		"refused":           TestSubscriptionsAreRefusedByName,
		"credit":            TestCreditBoundsWhatIsSent,
		"frames":            TestAFrameIsAsLargeAsAskedForAndOneMessageAlwaysFits,
		"both doors":        TestOneGroupConsumesThroughBothDoors,
		"end of the stream": TestLeasesLastAsLongAsTheirStream,
		"settled":           TestMessagesAreSettledInRangesAndUpToAnOffset,
		"retried":           TestMessagesAreRetriedHeldAndGivenUp,
		"slow":              TestASlowReaderHoldsUpNobody,
		"stopped":           TestAStoppedStreamSettlesWhatItHas,
		"ended":             TestAStreamEndsWithItsTopicAndItsServer,
	} {
		t.Run(name, test)
	}
}

func TestPublishingWithoutHTTP2IsTheSame(t *testing.T) {
	withoutHTTP2 = true
	defer func() { withoutHTTP2 = false }()
	for name, test := range map[string]func(*testing.T){
		"both doors":  TestPublishedMessagesComeOutOfTheOtherDoorAsTheyWentIn,
		"refused":     TestARefusedEntryDoesNotHoldBackTheOthers,
		"damaged":     TestABodyThatDoesNotMatchItsChecksumIsRefused,
		"no batch":    TestABatchThatIsNoneIsRefusedAsAWhole,
		"no contract": TestAStreamThatBreaksTheContractIsEnded,
		"window":      TestMoreInFlightThanTheWindowEndsTheStream,
		"sent twice":  TestABatchSentTwiceIsStoredOnceAndAnsweredAlike,
		"half":        TestHalfAndDelayedMessagesAreDecidedOverTheStream,
		"asked":       TestAPublisherIsAskedAboutItsTransactions,
		"shut down":   TestShutdownLosesNoBatchAndStoresNoneTwice,
	} {
		t.Run(name, test)
	}
}

func TestACallWithoutHTTP2ThatIsNoneEnds(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	for name, sent := range map[string]string{
		"another opening":   "gantry.v9/Consume\n and more",
		"a kind it has not": "gantry.v1/Consume\n\x07\x00\x00\x00\x00",
		"too long":          "gantry.v1/Consume\n\x00\xff\xff\xff\xff",
		"cut short":         "gantry.v1/Consume\n\x00\x00",
		"no subscribe":      "gantry.v1/Consume\n\x00\x00\x00\x00\x00",
		"nothing":           "gantry.v1/Consume\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", f.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c) // it ends
			if opening := "gantry.v1/Consume\n"; err == nil && !strings.HasPrefix(sent, opening) && len(got) > 0 {
				t.Errorf("answered by %q", got)
			}
		})
	}
	s, err := dialPlain[gantryv1.ConsumeRequest, gantryv1.ConsumeResponse](t.Context(), f.addr, stream.Consume)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Credit{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a call that does not subscribe: %v", err)
	}
}

func TestACallWithoutHTTP2ThatAsksForNothingIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := bufconn.Listen(1 << 10)
		s := New(openBroker(t), Options{Logger: discard})
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		c, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open := func() int {
			synctest.Wait()
			s.plain.mu.Lock()
			defer s.plain.mu.Unlock()
			return len(s.plain.open)
		}
		io.WriteString(c, "gantry.v1/Consume\n")
		if n := open(); n != 1 {
			t.Fatalf("%d calls", n)
		}
		time.Sleep(handshakeTimeout + time.Millisecond)
		if n := open(); n != 0 {
			t.Errorf("%d calls after a handshake's timeout", n)
		}
		if err := errors.Join(s.Shutdown(t.Context()), <-served); err != nil {
			t.Error(err)
		}
	})
}

func TestAShutdownCutsOffACallWithoutHTTP2ThatTakesNothing(t *testing.T) {
	withoutHTTP2 = true
	defer func() { withoutHTTP2 = false }()
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	for range 16 {
		p.good(packOf(strings.Repeat("x", 1<<20)))
	}
	f.subscribe(context.Background(), "t", "", earliest()) // and never looks at it again
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
