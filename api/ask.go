package api

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// askTimeout is how long a client has for its answer to a command, the reference's
// time (wire-contract 9).
const askTimeout = 5 * time.Second

// questions are the commands that clients have been sent and have not answered. A
// client's answer comes on its command stream and has the nonce of the command.
type questions struct {
	mu   sync.Mutex
	open map[string]*question // guarded by mu, by nonce
}

// question is one of them.
type question struct {
	client  string
	message *v2.Message               // of a VerifyMessage
	answer  chan *v2.TelemetryCommand // room for one
}

func (q *questions) ask(one *question) (nonce string) {
	nonce = rand.Text()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open == nil {
		q.open = map[string]*question{}
	}
	q.open[nonce] = one
	return nonce
}

// get returns an open question to a client, nil when there is none.
func (q *questions) get(client, nonce string) *question {
	q.mu.Lock()
	defer q.mu.Unlock()
	if one := q.open[nonce]; one != nil && one.client == client {
		return one
	}
	return nil
}

func (q *questions) drop(nonce string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, nonce)
}

// answered takes what a client says on its command stream, if it answers something.
func (q *questions) answered(client string, cmd *v2.TelemetryCommand) {
	nonce := cmd.GetThreadStackTrace().GetNonce()
	if r := cmd.GetVerifyMessageResult(); r != nil {
		nonce = r.GetNonce()
	}
	if one := q.get(client, nonce); one != nil {
		select {
		case one.answer <- cmd:
		default: // it answers twice
		}
	}
}

// ask sends a client a command and returns what it answers. The client must be in the
// group; one without a name is any.
func (m *messaging) ask(ctx context.Context, client string, group record.Resource, message *v2.Message, command func(nonce string) session.Command) (*v2.TelemetryCommand, error) {
	c, live := m.broker.Sessions().Get(client)
	if !live || group.Name != "" && c.Group != group {
		return nil, &codedError{v2.Code_NOT_FOUND, "no client with this id is connected, or it is not in the group"}
	}
	one := &question{client: client, message: message, answer: make(chan *v2.TelemetryCommand, 1)}
	nonce := m.questions.ask(one)
	defer m.questions.drop(nonce)
	switch err := m.broker.Sessions().Send(client, command(nonce)); {
	case errors.Is(err, session.ErrNoStream):
		return nil, &codedError{v2.Code_NOT_FOUND, "the client has no command stream open: it cannot be asked"}
	case err != nil:
		return nil, broker.Errorf(broker.Unavailable, "the client does not read its command stream")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case answer := <-one.answer:
		return answer, nil
	case <-m.draining.Done():
		return nil, broker.Errorf(broker.Unavailable, "the server is shutting down")
	case <-ctx.Done():
		return nil, &codedError{v2.Code_PROXY_TIMEOUT, "the client did not answer in time"}
	}
}

// sendVerify writes the command to consume a message, unless nobody waits for the
// answer any more.
func (m *messaging) sendVerify(stream telemetryStream, nonce string) error {
	one := m.questions.get(clientID(stream.Context()), nonce)
	if one == nil {
		return nil
	}
	return stream.Send(&v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_VerifyMessageCommand{
		VerifyMessageCommand: &v2.VerifyMessageCommand{Nonce: nonce, Message: one.message},
	}})
}
