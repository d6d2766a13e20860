package api

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker/session"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// commandBacklog is how many commands may wait for a client to read its stream.
const commandBacklog = 64

var errSlowClient = errors.New("api: client does not read its command stream")

type telemetryStream = grpc.BidiStreamingServer[v2.TelemetryCommand, v2.TelemetryCommand]

// Telemetry exchanges settings and then carries commands. This goroutine is the
// stream's only writer; a second one reads, because a read ends only with the
// stream itself and the server must be able to end it.
//
// The client is live apart from its stream: the stream's end detaches commands
// and nothing else.
func (m *messaging) Telemetry(stream telemetryStream) error {
	ctx := stream.Context()
	received := make(chan *v2.TelemetryCommand)
	ended := make(chan error, 1)
	m.readers.Go(func() { ended <- readCommands(stream, received) })

	commands := make(chan session.Command, commandBacklog)
	detach := func() {}
	defer func() { detach() }()
	attached, revoked := false, passOf(ctx).revoked()
	for {
		select {
		case err := <-ended:
			if err != nil {
				m.broker.Disconnected(clientID(ctx))
			}
			return err
		case <-revoked:
			m.broker.Disconnected(clientID(ctx))
			return errRevoked
		case <-m.draining.Done():
			return status.Error(codes.Unavailable, "the server is shutting down")
		case c := <-commands:
			if err := m.sendCommand(stream, c); err != nil {
				return err
			}
		case cmd := <-received:
			settings := cmd.GetSettings()
			if settings == nil {
				m.questions.answered(clientID(ctx), cmd)
				continue
			}
			merged, err := m.register(ctx, settings)
			if err != nil {
				return m.telemetryError(err)
			}
			if !attached {
				detach = m.broker.Sessions().Attach(clientID(ctx), func(c session.Command) error {
					select {
					case commands <- c:
						return nil
					default:
						return errSlowClient
					}
				})
				attached = true
			}
			// Status too: Python waits for ever for an answer that has both.
			answer := &v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_Settings{Settings: merged}}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

// readCommands hands on what the client sends until the stream ends. It returns
// nil when the client closed its side in good order.
func readCommands(stream telemetryStream, to chan<- *v2.TelemetryCommand) error {
	for {
		cmd, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		select {
		case to <- cmd:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// telemetryError ends the stream, the one place where a client's mistake is a
// gRPC error: SDKs take a stream that ends as a failed start.
func (m *messaging) telemetryError(err error) error {
	st := statusFor(m.log, err)
	code := codes.Internal
	if st.Code >= v2.Code_BAD_REQUEST && st.Code < v2.Code_INTERNAL_ERROR {
		code = codes.InvalidArgument
	}
	return status.Errorf(code, "process client telemetryCommand failed. %s: %s", st.Code, st.Message)
}

func (m *messaging) sendCommand(stream telemetryStream, c session.Command) error {
	switch c := c.(type) {
	case session.RecoverTransaction:
		return m.sendRecover(stream, c.ID)
	case session.VerifyMessage:
		return m.sendVerify(stream, c.Nonce)
	}
	return stream.Send(wireCommand(c))
}

func wireCommand(c session.Command) *v2.TelemetryCommand {
	switch c := c.(type) {
	case session.Reconnect:
		return &v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_ReconnectEndpointsCommand{
			ReconnectEndpointsCommand: &v2.ReconnectEndpointsCommand{Nonce: c.Nonce},
		}}
	case session.UnsubscribeLite:
		return &v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_NotifyUnsubscribeLiteCommand{
			NotifyUnsubscribeLiteCommand: &v2.NotifyUnsubscribeLiteCommand{LiteTopic: c.LiteTopic},
		}}
	case session.PrintStack:
		return &v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_PrintThreadStackTraceCommand{
			PrintThreadStackTraceCommand: &v2.PrintThreadStackTraceCommand{Nonce: c.Nonce},
		}}
	default:
		panic(fmt.Sprintf("api: no wire form for command %T", c))
	}
}
