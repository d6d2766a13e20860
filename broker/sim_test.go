package broker

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// TestModel does random things to a broker and to a model of it, which must
// agree on everything a client can see. Leases never end by themselves here:
// every lease is long, and ChangeInvisible(0) ends one.
//
// GANTRY_SIM_SEED replays one run, GANTRY_SIM_OPS makes runs longer.
func TestModel(t *testing.T) {
	seeds := []uint64{1, 2, uint64(time.Now().UnixNano())}
	if s := os.Getenv("GANTRY_SIM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{n}
	}
	ops := 300
	if s := os.Getenv("GANTRY_SIM_OPS"); s != "" {
		var err error
		if ops, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			s := newSim(t, seed)
			for range ops {
				s.step()
			}
			s.drain()
			s.replay()
			closeBroker(t, s.b)
			if _, err := commitlog.Check(filepath.Join(s.dir, "commitlog")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// ---- The model ----

// simMsg is a message as it was sent, in its place.
type simMsg struct {
	id, tag, group string
	body           []byte
	queue          uint32
	offset         record.QueueOffset
}

// simTopic is one life of a topic: what each queue holds.
type simTopic struct {
	fifo   bool
	queues [][]*simMsg
}

// simGroup is one life of a group.
type simGroup struct {
	name   string
	topic  string
	fifo   bool
	tags   string // "" = all
	max    int32
	places map[*simMsg]*place
	stored map[uint32]record.QueueOffset // by UpdateOffset
}

// place is how far a group is with a message. No place: never handed out.
type place struct {
	attempt int32
	handle  string // "" = ready to be handed out again
	by      string // attempt id of the receive that holds it
	settled bool
	dead    bool
}

func (g *simGroup) wants(m *simMsg) bool {
	return g.tags == "" || m.tag != "" && strings.Contains(g.tags, m.tag)
}

// available returns what a receive may hand out now, and whether there is a
// message that a receive must bury first.
func (g *simGroup) available(tp *simTopic) (out map[*simMsg]bool, burying bool) {
	out = map[*simMsg]bool{}
	for _, q := range tp.queues {
		busy := map[string]bool{} // message groups with an earlier message
		for _, m := range q {
			p := g.places[m]
			if !g.wants(m) || p != nil && p.settled {
				continue
			}
			free := (p == nil || p.handle == "") && !(g.fifo && busy[m.group])
			busy[m.group] = true
			switch {
			case free && p != nil && p.attempt >= g.max:
				burying = true
			case free:
				out[m] = true
			}
		}
	}
	return out, burying
}

// ---- The simulation ----

type sim struct {
	t      *testing.T
	r      *rand.Rand
	dir    string
	b      *Broker
	topics map[string]*simTopic
	groups map[string]*simGroup
	buried map[string][]*simMsg // by group name: the dead letters
	n      int                  // messages so far
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, r: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(),
		topics: map[string]*simTopic{}, groups: map[string]*simGroup{}, buried: map[string][]*simMsg{}}
	s.b = s.open(s.dir)
	for _, name := range []string{"plain", "ordered"} {
		s.createTopic(name)
	}
	for _, g := range []simGroup{
		{name: "all", topic: "plain", max: 1000}, {name: "some", topic: "plain", tags: "A||B", max: 2},
		{name: "one-by-one", topic: "plain", fifo: true, max: 1000}, {name: "in-order", topic: "ordered", fifo: true, max: 1000},
		{name: "whatever", topic: "ordered", max: 3},
	} {
		s.createGroup(g)
	}
	return s
}

func (s *sim) open(dir string) *Broker {
	return open(s.t, dir, func(o *Options) { o.CheckpointEvery, o.SegmentSize = 20_000, 128<<10 })
}

func (s *sim) createTopic(n string) {
	tp := &simTopic{fifo: n == "ordered", queues: make([][]*simMsg, 3)}
	kind := topic.Normal
	if tp.fifo {
		kind = topic.FIFO
	}
	makeTopic(s.t, s.b, n, kind, 3)
	s.topics[n] = tp
}

func (s *sim) createGroup(g simGroup) {
	g.places, g.stored = map[*simMsg]*place{}, map[uint32]record.QueueOffset{}
	if _, err := s.b.CreateGroup(s.t.Context(), group.Group{Name: name(g.name), FIFO: g.fifo, MaxAttempts: g.max}); err != nil {
		s.t.Fatal(err)
	}
	s.groups[g.name] = &g
}

func pick[T any](r *rand.Rand, m map[string]T) (string, T) {
	k := slices.Sorted(maps.Keys(m))[r.IntN(len(m))]
	return k, m[k]
}

func (s *sim) step() {
	_, g := pick(s.r, s.groups)
	switch n := s.r.IntN(1000); {
	case n < 250:
		s.send()
	case n < 550:
		s.receive(g, s.r.IntN(2) == 0)
	case n < 760:
		s.settle(g)
	case n < 860:
		s.nack(g)
	case n < 900:
		s.pull(g)
	case n < 930:
		s.offset(g)
	case n < 945:
		if err := s.b.DeleteGroup(s.t.Context(), name(g.name)); err != nil {
			s.t.Fatal(err)
		}
		s.createGroup(*g)
	case n < 950:
		s.recreateTopic()
	case n < 965:
		closeBroker(s.t, s.b)
		s.b = s.open(s.dir)
	default:
		s.crash([]string{"", "state", "consumequeue"}[s.r.IntN(3)])
	}
}

func (s *sim) recreateTopic() {
	n, _ := pick(s.r, s.topics)
	if err := s.b.DeleteTopic(s.t.Context(), name(n)); err != nil {
		s.t.Fatal(err)
	}
	s.createTopic(n)
	for _, g := range s.groups {
		if g.topic == n {
			g.places, g.stored = map[*simMsg]*place{}, map[uint32]record.QueueOffset{}
		}
	}
}

func (s *sim) send() {
	n, tp := pick(s.r, s.topics)
	msgs := make([]Outgoing, 1+s.r.IntN(6))
	sent := make([]*simMsg, len(msgs))
	for i := range msgs {
		s.n++
		m := &simMsg{id: fmt.Sprint("m", s.n), tag: []string{"", "A", "B", "C"}[s.r.IntN(4)], body: make([]byte, 1+s.r.IntN(2000))}
		for j := range m.body {
			m.body[j] = byte(s.r.Uint32())
		}
		if tp.fifo {
			m.group = fmt.Sprint("g", s.r.IntN(5))
		}
		sent[i] = m
		msgs[i] = Outgoing{ID: m.id, Tag: m.tag, Body: m.body, Group: m.group, HasGroup: tp.fifo}
	}
	answers := send(s.t, s.b, n, msgs...)
	// Which queues they went to is the broker's choice; there they continue.
	st, err := s.b.TopicStatus(name(n))
	if err != nil {
		s.t.Fatal(err)
	}
	for i, m := range sent {
		m.offset = answers[i].Offset
		at := slices.IndexFunc(st.Queues, func(q QueueStatus) bool {
			have := record.QueueOffset(len(tp.queues[q.Queue]))
			return have == m.offset && have < q.Max && (!tp.fifo || q.Queue == record.Hash32(m.group)%3)
		})
		if at < 0 {
			s.t.Fatalf("%s was stored at offset %d, the queues of %s are %v", m.id, m.offset, n, st.Queues)
		}
		m.queue = uint32(at)
		tp.queues[at] = append(tp.queues[at], m)
	}
	for q, msgs := range tp.queues {
		if int(st.Queues[q].Max) != len(msgs) || st.Queues[q].Min != 0 {
			s.t.Fatalf("queue %d of %s has %+v, want %d messages", q, n, st.Queues[q], len(msgs))
		}
	}
}

// receive takes up to a random number of messages, and reports how many.
func (s *sim) receive(g *simGroup, named bool) int {
	tp := s.topics[g.topic]
	req := ReceiveRequest{ClientID: "c1", Group: name(g.name), Topic: name(g.topic), Queue: int32(s.r.IntN(4)) - 1,
		Filter: cmp.Or(g.tags, "*"), Batch: 1 + s.r.IntN(8), Invisible: MaxInvisible}
	if named {
		req.AttemptID = fmt.Sprint("attempt", s.r.IntN(3))
	}
	held := map[*simMsg]bool{} // by an earlier receive with this attempt id
	for m, p := range g.places {
		if named && !p.settled && p.handle != "" && p.by == req.AttemptID {
			held[m] = true
		}
	}
	s.quiet() // an ack is answered before it is applied, and makes room in ordered groups
	can, burying := g.available(tp)
	var got []Delivered
	d, err := s.b.Receive(s.t.Context(), req)
	if err == nil {
		defer d.Release()
		got = d.Messages
	} else if ReasonOf(err) != MessageNotFound {
		s.t.Fatal(err)
	}
	want := min(req.Batch, len(can))
	switch {
	case len(held) > 0 && len(got) != len(held):
		s.t.Fatalf("%s got %v for an attempt that holds %d", g.name, bodyless(got), len(held))
	case len(held) == 0 && len(got) != want && !(burying && len(got) < want && (len(got) > 0 || want == 0)):
		s.t.Fatalf("%s got %v, %d of %d are available", g.name, bodyless(got), want, len(can))
	}
	for _, d := range got {
		m := s.message(tp, d)
		p := g.places[m]
		if held[m] {
			if p.attempt != d.Attempt || p.handle != d.Handle {
				s.t.Fatalf("%s got %s again as attempt %d, want %d with the same handle", g.name, m.id, d.Attempt, p.attempt)
			}
			continue
		}
		if !can[m] || len(held) > 0 {
			s.t.Fatalf("%s got %s#%d, it has %+v of it", g.name, m.id, d.Attempt, p)
		}
		delete(can, m)
		if p == nil {
			p = &place{}
			g.places[m] = p
		}
		if p.attempt++; p.attempt != d.Attempt {
			s.t.Fatalf("%s got %s as attempt %d, want %d", g.name, m.id, d.Attempt, p.attempt)
		}
		p.handle, p.by = d.Handle, req.AttemptID
	}
	if burying {
		s.bury(g)
	}
	return len(got)
}

// bury finds out which of the messages without attempts left a receive has made
// dead letters.
func (s *sim) bury(g *simGroup) {
	st, err := s.b.TopicStatus(name(DLQPrefix + g.name))
	if ReasonOf(err) == TopicNotFound {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range s.pullAll(DLQPrefix+g.name, 0, record.QueueOffset(len(s.buried[g.name])), st.Queues[0].Max) {
		m := s.byID(g.topic, d)
		p := g.places[m]
		if p == nil || p.settled || p.handle != "" || p.attempt < g.max {
			s.t.Fatalf("%s of %s became a dead letter: %+v", m.id, g.name, p)
		}
		p.settled, p.dead = true, true
		s.buried[g.name] = append(s.buried[g.name], m)
	}
}

func (s *sim) byID(topic string, d Delivered) *simMsg {
	id, _ := d.Message.Properties.Lookup(record.FieldMessageID)
	for _, q := range s.topics[topic].queues {
		for _, m := range q {
			if m.id == string(id) && bytes.Equal(m.body, d.Message.Body) {
				return m
			}
		}
	}
	s.t.Fatalf("%s holds no %q", topic, id)
	return nil
}

// message finds what was delivered by its place, and compares all of it.
func (s *sim) message(tp *simTopic, d Delivered) *simMsg {
	if int(d.Queue) >= len(tp.queues) || int(d.Offset) >= len(tp.queues[d.Queue]) {
		s.t.Fatalf("delivered from queue %d offset %d, where there is nothing", d.Queue, d.Offset)
	}
	m := tp.queues[d.Queue][d.Offset]
	id, _ := d.Message.Properties.Lookup(record.FieldMessageID)
	tag, _ := d.Message.Properties.Lookup(record.FieldTag)
	group, _ := d.Message.Properties.Lookup(record.FieldGroup)
	if string(id) != m.id || string(tag) != m.tag || string(group) != m.group || !bytes.Equal(d.Message.Body, m.body) {
		s.t.Fatalf("queue %d offset %d: delivered %q tag %q group %q with %d bytes, sent %+v", d.Queue, d.Offset, id, tag, group, len(d.Message.Body), m)
	}
	return m
}

func bodyless(ms []Delivered) (out []string) {
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%d/%d#%d", m.Queue, m.Offset, m.Attempt))
	}
	return out
}

// leased returns the messages a group holds, in a fixed order.
func (s *sim) leased(g *simGroup) (out []*simMsg) {
	for m, p := range g.places {
		if !p.settled && p.handle != "" {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *simMsg) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.offset, b.offset))
	})
	s.r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// settle acknowledges some of what a group holds, and some of it twice.
func (s *sim) settle(g *simGroup) {
	held := s.leased(g)
	held = held[:min(len(held), 1+s.r.IntN(8))]
	if len(held) == 0 {
		return
	}
	var ds []Delivered
	for _, m := range held {
		ds = append(ds, Delivered{Handle: g.places[m].handle})
		g.places[m].settled = true
	}
	ack(s.t, s.b, g.topic, g.name, ds...)
	if s.r.IntN(4) == 0 {
		ack(s.t, s.b, g.topic, g.name, ds...)
	}
}

// nack gives one message back, keeps it longer, or gives it up.
func (s *sim) nack(g *simGroup) {
	held := s.leased(g)
	if len(held) == 0 {
		return
	}
	m := held[0]
	p := g.places[m]
	old := p.handle
	var err error
	switch s.r.IntN(4) {
	case 0:
		p.handle, err = s.b.ChangeInvisible(s.t.Context(), name(g.name), name(g.topic), old, time.Hour, false)
		p.by = ""
	case 1:
		err = s.b.ForwardToDeadLetter(s.t.Context(), name(g.name), name(g.topic), old, 0, 0)
		p.settled, p.dead = true, true
		s.buried[g.name] = append(s.buried[g.name], m)
	default:
		_, err = s.b.ChangeInvisible(s.t.Context(), name(g.name), name(g.topic), old, 0, false)
		p.handle, p.by = "", ""
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.b.ChangeInvisible(s.t.Context(), name(g.name), name(g.topic), old, time.Hour, false); ReasonOf(err) != InvalidHandle {
		s.t.Fatalf("the old handle of %s still works: %v", m.id, err)
	}
}

func (s *sim) pull(g *simGroup) {
	q := s.r.IntN(3)
	have := s.topics[g.topic].queues[q]
	from, batch := s.r.IntN(len(have)+2), 1+s.r.IntN(8)
	d, err := s.b.Pull(s.t.Context(), PullRequest{Group: name(g.name), Topic: name(g.topic), Queue: int32(q), Offset: record.QueueOffset(from), Batch: batch, Filter: cmp.Or(g.tags, "*")})
	if from > len(have) {
		if ReasonOf(err) != IllegalOffset || err == nil || int(d.NextOffset) != len(have) {
			s.t.Fatalf("pull behind the end: %+v, %v", d, err)
		}
		return
	}
	var want []*simMsg
	next := from
	for ; next < len(have) && len(want) < batch; next++ {
		if g.wants(have[next]) {
			want = append(want, have[next])
		}
	}
	if err != nil && (ReasonOf(err) != MessageNotFound || len(want) > 0) {
		s.t.Fatal(err)
	}
	defer d.Release()
	if int(d.NextOffset) != next || len(d.Messages) != len(want) {
		s.t.Fatalf("pulled %v, next %d; want %d messages, next %d", bodyless(d.Messages), d.NextOffset, len(want), next)
	}
	for i, p := range d.Messages {
		if m := s.message(s.topics[g.topic], p); m != want[i] {
			s.t.Fatalf("pulled %s, want %s", m.id, want[i].id)
		}
	}
}

// pullAll reads part of a queue by offset.
func (s *sim) pullAll(topic string, queue int32, from, to record.QueueOffset) (out []Delivered) {
	for from < to {
		d, err := s.b.Pull(s.t.Context(), PullRequest{Group: name("puller"), Topic: name(topic), Queue: queue, Offset: from, Batch: 32, Filter: "*"})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(d.Release)
		out = append(out, d.Messages...)
		from = d.NextOffset
	}
	return out
}

func (s *sim) offset(g *simGroup) {
	q := uint32(s.r.IntN(3))
	if want, ok := g.stored[q]; ok {
		if got, err := s.b.GetOffset(name(g.name), name(g.topic), int32(q)); err != nil || got != want {
			s.t.Fatalf("offset of %s in queue %d is %d, %v, want %d", g.name, q, got, err, want)
		}
	}
	g.stored[q] = record.QueueOffset(s.r.IntN(1000))
	if err := s.b.UpdateOffset(s.t.Context(), name(g.name), name(g.topic), int32(q), g.stored[q]); err != nil {
		s.t.Fatal(err)
	}
}

// crash goes on with a copy of the directory as it is while the broker runs,
// without one of its parts.
func (s *sim) crash(without string) {
	dir := s.t.TempDir()
	// In this order a checkpoint written meanwhile is newer than the copied one,
	// never older.
	for _, part := range []string{"FORMAT", "state", "consumequeue", "commitlog"} {
		if part != without {
			copySparse(s.t, filepath.Join(s.dir, part), filepath.Join(dir, part))
		}
	}
	closeBroker(s.t, s.b)
	removeAll(s.t, s.dir)
	s.dir, s.b = dir, s.open(dir)
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	zero := make([]byte, 64<<10)
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // an old checkpoint that was just replaced
		}
		if err != nil {
			return err
		}
		f, err := os.Create(target)
		if err != nil {
			return err
		}
		defer f.Close()
		for at := 0; at < len(b); at += len(zero) {
			if block := b[at:min(at+len(zero), len(b))]; !bytes.Equal(block, zero[:len(block)]) {
				if _, err := f.WriteAt(block, int64(at)); err != nil {
					return err
				}
			}
		}
		return f.Truncate(int64(len(b)))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// drain settles everything, and compares all that is left to compare.
func (s *sim) drain() {
	for _, n := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[n]
		tp := s.topics[g.topic]
		for {
			s.settleAll(g)
			can, burying := g.available(tp)
			if len(can) == 0 && !burying {
				break
			}
			if s.receive(g, false) == 0 && !burying {
				s.t.Fatalf("%s gets none of %d messages", g.name, len(can))
			}
		}
		for _, q := range tp.queues {
			for _, m := range q {
				if p := g.places[m]; g.wants(m) && (p == nil || !p.settled) {
					s.t.Fatalf("%s of %s is not settled: %+v", m.id, g.name, p)
				}
			}
		}
		for q, want := range g.stored {
			if got, err := s.b.GetOffset(name(n), name(g.topic), int32(q)); err != nil || got != want {
				s.t.Fatalf("offset of %s in queue %d is %d, %v, want %d", n, q, got, err, want)
			}
		}
		dead := s.buried[n]
		if len(dead) == 0 {
			continue
		}
		st, err := s.b.TopicStatus(name(DLQPrefix + n))
		if err != nil {
			s.t.Fatal(err)
		}
		letters := s.pullAll(DLQPrefix+n, 0, 0, st.Queues[0].Max)
		if len(letters) != len(dead) {
			s.t.Fatalf("%s has %d dead letters, want %d", n, len(letters), len(dead))
		}
		for i, d := range letters {
			if !bytes.Equal(d.Message.Body, dead[i].body) || d.Origin == nil || d.Origin.MessageID != dead[i].id || d.Origin.Topic != g.topic {
				s.t.Fatalf("dead letter %d of %s: %+v, want %s", i, n, d.Origin, dead[i].id)
			}
		}
	}
	for n, tp := range s.topics {
		for q, msgs := range tp.queues {
			all := s.pullAll(n, int32(q), 0, record.QueueOffset(len(msgs)))
			for i, d := range all {
				if m := s.message(tp, d); m != msgs[i] {
					s.t.Fatalf("%s queue %d offset %d holds %s, want %s", n, q, i, m.id, msgs[i].id)
				}
			}
		}
	}
}

func (s *sim) settleAll(g *simGroup) {
	var ds []Delivered
	for _, m := range s.leased(g) {
		ds = append(ds, Delivered{Handle: g.places[m].handle})
		g.places[m].settled = true
	}
	if len(ds) > 0 {
		ack(s.t, s.b, g.topic, g.name, ds...)
	}
}

// replay compares the state, which came about by many restarts from many
// checkpoints, with that of the whole log applied at once.
func (s *sim) replay() {
	want := s.state()
	dir := s.t.TempDir()
	for _, part := range []string{"FORMAT", "commitlog"} {
		copySparse(s.t, filepath.Join(s.dir, part), filepath.Join(dir, part))
	}
	old := s.b
	s.b = s.open(dir)
	got := s.state()
	closeBroker(s.t, s.b)
	s.b = old
	if got.Position != want.Position {
		s.t.Fatalf("the log replayed ends at %d, want %d", got.Position, want.Position)
	}
	for i := range want.Sections {
		if i == sectionIndex {
			continue // which pages a queue has depends on when others were freed; drain compared what they hold
		}
		if !bytes.Equal(got.Sections[i], want.Sections[i]) {
			s.t.Errorf("section %d of the state: the log replayed gives\n%x, want\n%x", i, got.Sections[i], want.Sections[i])
		}
	}
}

// quiet waits until everything is applied.
func (s *sim) quiet() record.Position {
	at := s.b.wal.Committed()
	if err := s.b.dispatcher.Await(s.t.Context(), at); err != nil {
		s.t.Fatal(err)
	}
	return at
}

// state is the snapshot of a broker that nobody uses.
func (s *sim) state() dispatch.Checkpoint { return s.b.snapshot(s.quiet()) }
