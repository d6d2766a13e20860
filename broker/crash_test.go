//go:build !race

// The disk of these tests reads mapped bytes while others store to them, as the
// kernel does when it writes pages back. To the race detector that is a race.

package broker

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
	"github.com/gantry-mq/gantry/scheduler"
)

var (
	crashSeed   = flag.Uint64("crash-seed", 0, "seed of TestPowerLossInsideEveryFeature; 0 = a new one each time")
	crashPoints = flag.Int("crash-points", 60, "power losses of TestPowerLossInsideEveryFeature; 0 = one at every call of the disk")
)

// The power goes at a call of the disk, anywhere in a life in which every feature
// is used: half messages decided, timers fired and cancelled, leases refused,
// dead letters re-driven, retention that copies forward, checkpoints. What was
// answered before that is true afterwards.
func TestPowerLossInsideEveryFeature(t *testing.T) {
	seed := cmp.Or(*crashSeed, rand.Uint64())
	t.Logf("-crash-seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 9))
	whole := newCrashLife(t, crashtest.New())
	if whole.live(); whole.err != nil {
		t.Fatal(whole.err)
	}
	calls := whole.disk.Calls()
	whole.verify(whole.disk.Crash(crashtest.None, rng))
	points := *crashPoints
	if points == 0 {
		points = calls
	}
	for i := range points {
		step := 1 + i*calls/points + rng.IntN(max(1, calls/points)) // a random one of each part
		life := newCrashLife(t, crashtest.New())
		life.failFrom(step)
		life.live()
		survival := crashtest.Survivals[rng.IntN(len(crashtest.Survivals))]
		life.what = fmt.Sprintf("power lost at call %d of %d (%v), answered by then: %v", step, calls, survival, life.err)
		life.verify(life.disk.Crash(survival, rng))
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d calls", points, calls)
}

// crashLife is one life of a broker, and what its clients were told.
type crashLife struct {
	t    *testing.T
	disk *crashtest.FS
	b    *Broker
	wall *wall
	err  error // that ended it
	what string

	there   map[string]string // id -> topic: to be received by a new group, once at least
	never   map[string]string // id -> topic: not to be received at all
	pending map[string]bool   // not due for a long time
	acked   map[string]bool   // by group G of topic Q
}

const crashLog = 5 * time.Hour // how long the log keeps what no topic keeps longer

func newCrashLife(t *testing.T, disk *crashtest.FS) *crashLife {
	return &crashLife{t: t, disk: disk, wall: &wall{}, there: map[string]string{}, never: map[string]string{}, pending: map[string]bool{}, acked: map[string]bool{}}
}

func (l *crashLife) failFrom(n int) {
	l.disk.Hook(func(c crashtest.Call) error {
		if c.N >= n && c.Op != crashtest.Read {
			return errors.New("no power")
		}
		return nil
	})
}

func (l *crashLife) open(disk *crashtest.FS) (*Broker, error) {
	return Open(l.t.Context(), Options{
		Dir: "/data", FS: disk, ArenaSize: 64 << 10, KeySegmentEntries: 64, SegmentSize: 64 << 10, CheckpointEvery: 8 << 10,
		Durability: commitlog.DurabilitySync, RetentionAge: crashLog, AutoCreateGroups: true, Wall: l.wall.now, Fatal: func(error) {},
	})
}

// live goes on until something fails.
func (l *crashLife) live() {
	if l.b, l.err = l.open(l.disk); l.err != nil {
		return
	}
	l.err = l.rounds()
	if err := l.b.Close(); l.err == nil {
		l.err = err
	}
}

func (l *crashLife) rounds() error {
	kept := topic.Retention{RetainAge: 1000 * time.Hour}
	for _, tp := range []topic.Topic{
		{Name: name("Q"), Type: topic.Normal}, {Name: name("O"), Type: topic.FIFO}, {Name: name("D"), Type: topic.Delay},
		{Name: name("X"), Type: topic.Transaction}, {Name: name("P"), Type: topic.Priority},
	} {
		tp.Queues, tp.Retention = 2, kept
		if _, err := l.b.CreateTopic(l.t.Context(), tp); err != nil {
			return err
		}
	}
	if _, err := l.b.CreateTopic(l.t.Context(), topic.Topic{Name: name("F"), Type: topic.Normal, Queues: 1}); err != nil {
		return err
	}
	for r := range 3 {
		for _, do := range []func(int) error{l.send, l.consume, l.transactions, l.delays, l.redrive, l.retain} {
			if err := do(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// store sends one message; true once it is answered.
func (l *crashLife) store(topicName, id string, change func(*Outgoing)) (Sent, error) {
	m := msg(id, id)
	m.Topic = name(topicName)
	if change != nil {
		change(&m)
	}
	sent, err := l.b.Send(l.t.Context(), []Outgoing{m})
	if err != nil {
		return Sent{}, err
	}
	return sent[0], nil
}

func (l *crashLife) send(r int) error {
	for i := range 4 {
		for topicName, change := range map[string]func(*Outgoing){
			"Q": nil,
			"O": func(m *Outgoing) { m.Group, m.HasGroup = "g", true },
			"P": func(m *Outgoing) { m.Priority, m.HasPriority = int32(i%2), true },
		} {
			id := fmt.Sprint(topicName, r, "-", i)
			if _, err := l.store(topicName, id, change); err != nil {
				return err
			}
			l.there[id] = topicName
		}
	}
	return nil
}

// consume acknowledges one of Q, refuses one and gives one up.
func (l *crashLife) consume(int) error {
	ctx := l.t.Context()
	d, err := l.b.Receive(ctx, ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("Q"), Queue: -1, Batch: 3, Invisible: MinInvisible, Filter: "*"})
	if err != nil {
		return err
	}
	defer d.Release()
	for i := range d.Messages {
		m := &d.Messages[i]
		switch i {
		case 0:
			var errs []error
			if errs, err = l.b.Ack(ctx, name("G"), name("Q"), []AckEntry{{Handle: m.Handle}}); err == nil {
				err = errors.Join(errs...)
			}
			if err == nil {
				l.acked[string(m.Message.Body)] = true
			}
		case 1:
			_, err = l.b.ChangeInvisible(ctx, name("G"), name("Q"), m.Handle, 0, false)
		case 2:
			err = l.b.ForwardToDeadLetter(ctx, name("G"), name("Q"), m.Handle, 0, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *crashLife) transactions(r int) error {
	for i, outcome := range []transaction.Outcome{transaction.Committed, transaction.RolledBack, 0} {
		id := fmt.Sprint("X", r, "-", i)
		sent, err := l.store("X", id, func(m *Outgoing) { m.Transaction = true })
		if err != nil {
			return err
		}
		if outcome != transaction.Committed {
			l.never[id] = "X"
		}
		if err := l.b.EndTransaction(l.t.Context(), name("X"), id, sent.TransactionID, outcome, false); err != nil {
			return err
		}
		if outcome == transaction.Committed {
			l.there[id] = "X"
		}
	}
	return nil
}

func (l *crashLife) delays(r int) error {
	for i, ahead := range []time.Duration{2 * time.Millisecond, 500 * time.Hour, 500 * time.Hour} {
		id := fmt.Sprint("D", r, "-", i)
		if i > 0 {
			l.never[id] = "D"
		}
		sent, err := l.store("D", id, func(m *Outgoing) { m.DueTime = l.wall.now().Add(ahead).UnixMilli() })
		if err != nil {
			return err
		}
		switch i {
		case 0:
			l.there[id] = "D"
		case 1:
			l.pending[id] = true
		case 2:
			if _, err := l.b.Recall(l.t.Context(), name("D"), sent.RecallHandle); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *crashLife) redrive(r int) error {
	if r == 0 {
		return nil
	}
	_, err := l.b.Redrive(l.t.Context(), name("G"), RedriveRequest{}, func(DeadLetterProgress) error { return nil })
	return err
}

// retain lets segments go that hold what is kept, so that it is copied forward.
func (l *crashLife) retain(int) error {
	for range 20 {
		if _, err := l.store("F", "fill", func(m *Outgoing) { m.Body = make([]byte, 4<<10) }); err != nil {
			return err
		}
	}
	l.wall.jump(2 * crashLog)
	if _, err := l.store("F", "fill", nil); err != nil {
		return err
	}
	l.b.retain(l.wall.now())
	return l.b.Ready()
}

// verify opens what the disk was left with, twice: the second time without the
// indexes.
func (l *crashLife) verify(disk *crashtest.FS) {
	l.t.Helper()
	b, err := l.open(disk)
	if err != nil {
		l.t.Errorf("%s: does not start again: %v", l.what, err)
		return
	}
	l.b = b
	defer b.Close()
	got := map[string]map[string]int{}
	for _, topicName := range []string{"Q", "O", "D", "X", "P"} {
		got[topicName] = l.drain(topicName, "V")
	}
	for id, topicName := range l.there {
		if got[topicName][id] == 0 {
			l.t.Errorf("%s: %s was stored and does not come from %s", l.what, id, topicName)
		}
	}
	for id, topicName := range l.never {
		if got[topicName][id] > 0 {
			l.t.Errorf("%s: %s came from %s", l.what, id, topicName)
		}
	}
	for id := range l.pending {
		if _, err := b.FindTimer(l.t.Context(), name("D"), id); err != nil {
			l.t.Errorf("%s: %s is pending no more: %v", l.what, id, err)
		}
	}
	for id := range l.drain("Q", "G") {
		if l.acked[id] && got["Q"][id] < 2 { // else it is the re-driven one
			l.t.Errorf("%s: %s came again after it was acknowledged", l.what, id)
		}
	}
}

// drain receives all that a group gets of a topic, and counts.
func (l *crashLife) drain(topicName, groupName string) map[string]int {
	got := map[string]int{}
	if _, ok := l.b.topics.Lookup(name(topicName)); !ok {
		return got // it went before the topic was made
	}
	if _, err := l.b.CreateGroup(l.t.Context(), group.Group{Name: name(groupName)}); err != nil && ReasonOf(err) != AlreadyExists {
		l.t.Errorf("%s: group %s: %v", l.what, groupName, err)
	}
	for deadline := time.Now().Add(10 * time.Second); l.overdue() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for {
		ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
		d, err := l.b.Receive(ctx, ReceiveRequest{ClientID: "v", Group: name(groupName), Topic: name(topicName), Queue: -1, Batch: 32, Invisible: MinInvisible, Filter: "*"})
		cancel()
		if ReasonOf(err) == MessageNotFound {
			return got
		}
		if err != nil {
			l.t.Errorf("%s: receive from %s: %v", l.what, topicName, err)
			return got
		}
		var acks []AckEntry
		for i := range d.Messages {
			got[string(d.Messages[i].Message.Body)]++
			acks = append(acks, AckEntry{Handle: d.Messages[i].Handle})
		}
		d.Release()
		if _, err := l.b.Ack(l.t.Context(), name(groupName), name(topicName), acks); err != nil {
			l.t.Errorf("%s: ack: %v", l.what, err)
			return got
		}
	}
}

// overdue reports whether a delayed message is still to be put into its queue.
func (l *crashLife) overdue() (is bool) {
	now := l.wall.now().UnixMilli()
	if err := l.b.timers.Each(0, now+1000, func(t scheduler.Timer) bool { is = true; return false }); err != nil {
		l.t.Errorf("%s: timers: %v", l.what, err)
	}
	return is
}
