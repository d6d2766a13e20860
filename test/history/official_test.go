package history

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/test/history/check"
	"github.com/gantry-mq/gantry/test/interop/official"
)

var officialPrograms = flag.String("official", "", "have official clients work beside the others: the folder of their programs, ../interop/clients after ../interop/setup.sh")

// officialTopics are written and read by official clients alone.
var officialTopics = []struct {
	name string
	kind gantryv1.TopicType
}{
	{"official", gantryv1.TopicType_NORMAL},
	{"official-ordered", gantryv1.TopicType_FIFO},
	{"official-halves", gantryv1.TopicType_TRANSACTION},
}

// officialPause is between two sends of a producer, and officialShare how much of the
// time of a round its sends would take if each were answered at once. Under faults they
// take twice that, and what they take beyond the round is time without faults.
const (
	officialPause = 50 * time.Millisecond
	officialShare = 0.45
)

// officials are the official clients at work, a program a language. nil is none.
type officials struct {
	clients  []*official.Client
	messages map[string][]official.Message // by language and topic
}

// prepareOfficial returns nil when there are to be none.
func prepareOfficial(t *testing.T) *official.Programs {
	if *officialPrograms == "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "gantry-official-")
	must(t, err)
	programs, err := official.Prepare(*officialPrograms, dir)
	must(t, err)
	t.Cleanup(func() {
		programs.Wait()
		if t.Failed() {
			t.Log("what the official clients did is kept in ", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return programs
}

// startOfficial has a client of each language send to all topics, and receive from them in
// groups of its own.
func startOfficial(t *testing.T, p *official.Programs, c *cluster) *officials {
	if p == nil {
		return nil
	}
	admin := gantryv1.NewManagementClient(c.dial(t))
	o := &officials{messages: map[string][]official.Message{}}
	for _, topic := range officialTopics {
		made(t, func() error {
			_, err := admin.CreateTopic(t.Context(), &gantryv1.CreateTopicRequest{Name: topic.name, Type: topic.kind, Queues: queues})
			return err
		})
	}
	for _, language := range official.Languages {
		var roles []official.Role
		for _, topic := range officialTopics {
			messages := make([]official.Message, int(officialShare*float64(*clusterTime/officialPause)))
			for i := range messages {
				m := official.Message{Body: strings.Repeat(language, 1+i%100)}
				switch {
				case topic.kind == gantryv1.TopicType_FIFO:
					m.Group = fmt.Sprintf("%s-%d", language, i%6)
				case topic.kind == gantryv1.TopicType_TRANSACTION && i%4 == 3:
					m.Tx = "rollback"
				case topic.kind == gantryv1.TopicType_TRANSACTION:
					m.Tx = "commit"
				}
				messages[i] = m.Known(fmt.Sprintf("%s/%s/%d", topic.name, language, i))
			}
			o.messages[language+topic.name] = messages
			roles = append(roles, official.Role{Name: "send " + topic.name, Kind: "produce", Topic: topic.name, Messages: messages, IntervalMS: int(officialPause.Milliseconds()), Retry: true, Stay: true})
			for _, kind := range receives(language, topic.kind) {
				group := strings.Join([]string{topic.name, kind, language}, "-")
				made(t, func() error {
					_, err := admin.CreateGroup(t.Context(), &gantryv1.CreateGroupRequest{Name: group, Fifo: topic.kind == gantryv1.TopicType_FIFO, MaxAttempts: 1000})
					return err
				})
				roles = append(roles, official.Role{Name: kind + " " + topic.name, Kind: kind, Topic: topic.name, Group: group, Filter: "*", InvisibleS: 15})
			}
		}
		endpoints := c.servers()
		if language == "node" { // it ends when it is given several
			endpoints = endpoints[:1]
		}
		client := p.Start(t, strings.Join(endpoints, ";"), language, roles...)
		client.Await(t, "all of it has started", startLimit, func() bool { return len(client.All("", "started")) == len(roles) })
		o.clients = append(o.clients, client)
	}
	return o
}

// made repeats what makes something: on a busy machine the leader may change meanwhile.
func made(t *testing.T, f func() error) {
	t.Helper()
	err := f()
	for began := time.Now(); status.Code(err) == codes.Unavailable && time.Since(began) < startLimit; time.Sleep(100 * time.Millisecond) {
		if err = f(); status.Code(err) == codes.AlreadyExists { // the first time, and nobody was told
			return
		}
	}
	must(t, err)
}

// receives is how a language receives from a kind of topic.
func receives(language string, kind gantryv1.TopicType) []string {
	if kind == gantryv1.TopicType_NORMAL && language != "node" { // its simple consumer polls queue 0 only
		return []string{"push", "simple"}
	}
	return []string{"push"}
}

// settle waits until all that was acknowledged has arrived, judges it, and ends the clients.
func (o *officials) settle(t *testing.T) {
	if o == nil {
		return
	}
	awaitNone(t, func() (n int, which any, err error) {
		for _, c := range o.clients {
			for _, topic := range officialTopics {
				n += len(o.messages[c.Language+topic.name]) - len(c.All("send "+topic.name, "sent"))
			}
		}
		return n, "to be sent by official clients", nil
	})
	accepted, arrived := 0, 0
	for _, topic := range officialTopics {
		var a *check.Account
		awaitNone(t, func() (int, any, error) {
			a = o.account(topic.name, topic.kind)
			return a.Missing(), "not received by official clients from " + topic.name, nil
		})
		for _, v := range a.Violations() {
			t.Error(v)
		}
		accepted += len(a.Accepted)
		for _, arrivals := range a.Arrived {
			arrived += len(arrivals)
		}
	}
	failed := 0
	for _, c := range o.clients {
		failed += len(c.All("", "error"))
		c.Stop()
	}
	t.Logf("official clients: acknowledged=%d deliveries=%d errors that they were told=%d", accepted, arrived, failed)
}

// account is what they say of a topic.
func (o *officials) account(topic string, kind gantryv1.TopicType) *check.Account {
	a := &check.Account{Offered: map[string]bool{}, Arrived: map[string][]check.Arrival{}, Ordered: kind == gantryv1.TopicType_FIFO}
	for _, c := range o.clients {
		messages := o.messages[c.Language+topic]
		for _, m := range messages {
			a.Offered[content(m)] = true
		}
		for _, e := range c.All("send "+topic, "sent") {
			m := messages[e.Index]
			a.Accepted = append(a.Accepted, check.Accepted{ID: e.ID, Content: content(m), Group: m.Group, RolledBack: m.Tx == "rollback"})
		}
		for _, how := range receives(c.Language, kind) {
			arrivals := []check.Arrival{}
			for _, e := range c.All(how+" "+topic, "message") {
				arrivals = append(arrivals, check.Arrival{ID: e.ID, Content: e.Properties["case"] + " " + e.SHA256})
			}
			a.Arrived[c.Language+" "+how] = arrivals
		}
	}
	return a
}

func content(m official.Message) string {
	sum := sha256.Sum256([]byte(m.Body))
	return m.Properties["case"] + " " + hex.EncodeToString(sum[:])
}
