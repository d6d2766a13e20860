//go:build !race

// The disk in memory reads mapped pages while the index writes them, as the kernel
// does. To the race detector that is a race.

package broker

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// Delayed messages under everything at once: a wall clock that jumps both ways,
// recalls, other times, retention with segments of 64 KiB, restarts, kills, and
// the loss of what can be made again. Each message is recalled or delivered once,
// not before its time, and until then the broker says truly what it is.
//
//	go test ./broker -run WhateverHappens -timer-seed 123 -timer-rounds 20
//
// gives nearly the same run each time: the clock is the machine's.
func TestDelayedMessagesWhateverHappens(t *testing.T) {
	for range *timerRounds {
		seed := *timerSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newTimerSim(t, seed)
			for range 200 {
				s.step()
			}
			s.finish()
		})
	}
}

var (
	timerRounds = flag.Int("timer-rounds", 3, "rounds of TestDelayedMessagesWhateverHappens")
	timerSeed   = flag.Uint64("timer-seed", 0, "the seed of each round; 0 = a new one each time")
)

type timerSim struct {
	t    *testing.T
	rng  *rand.Rand
	disk *crashtest.FS
	wall *wall
	b    *Broker
	n    int
	late int64 // the latest the wall has said: what was due then may have fired
	all  map[string]*simTimer
	ids  []string
}

type simTimer struct {
	due      int64
	handle   string
	recalled bool
	at       *Delivered
}

func newTimerSim(t *testing.T, seed uint64) *timerSim {
	s := &timerSim{t: t, rng: rand.New(rand.NewPCG(seed, 4)), disk: crashtest.New(), wall: &wall{}, all: map[string]*simTimer{}}
	s.open()
	makeTopic(t, s.b, "D", topic.Delay, 3)
	makeTopic(t, s.b, "F", topic.Normal, 1)
	return s
}

func (s *timerSim) open() {
	s.b = open(s.t, "/data", retaining, s.wall.option, func(o *Options) {
		o.FS, o.ArenaSize, o.KeySegmentEntries = s.disk, 64<<10, 64
		o.RetentionAge, o.RetentionSize = 0, 320<<10
	})
}

func (s *timerSim) step() {
	b := s.b
	s.late = max(s.late, s.wall.now().UnixMilli())
	switch op := s.rng.IntN(100); {
	case op < 40:
		for range 1 + s.rng.IntN(5) {
			s.send()
		}
	case op < 55:
		s.change()
	case op < 65:
		jumps := []time.Duration{time.Second, time.Minute, time.Hour, -time.Second, -time.Minute, -time.Hour}
		s.wall.jump(jumps[s.rng.IntN(len(jumps))])
	case op < 75:
		s.drain()
	case op < 85:
		s.drain() // or retention may take what nobody has received
		body := strings.Repeat("x", 8<<10)
		for range s.rng.IntN(10) {
			send(s.t, b, "F", msg("fill", body))
		}
		b.retain(s.wall.now())
	case op < 92:
		for range 10 {
			if len(s.ids) > 0 {
				s.ask(s.ids[s.rng.IntN(len(s.ids))])
			}
		}
	default:
		s.restart()
	}
}

func (s *timerSim) send() {
	id := fmt.Sprint("m", s.n)
	s.n++
	ahead := []time.Duration{20 * time.Millisecond, time.Second, time.Minute, time.Hour, 3 * time.Hour}[s.rng.IntN(5)]
	m := delayed(id, id, s.wall.now().Add(time.Millisecond+time.Duration(s.rng.Int64N(int64(ahead)))))
	s.all[id] = &simTimer{due: m.DueTime, handle: send(s.t, s.b, "D", m)[0].RecallHandle}
	s.ids = append(s.ids, id)
}

// change recalls a message or gives it another time.
func (s *timerSim) change() {
	if len(s.ids) == 0 {
		return
	}
	id := s.ids[s.rng.IntN(len(s.ids))]
	m := s.all[id]
	if m.handle == "" {
		return // it was sent when it was due already
	}
	far := m.due > max(s.late, s.wall.now().UnixMilli())+5000 && m.at == nil && !m.recalled
	var err error
	if s.rng.IntN(2) == 0 {
		if _, err = s.b.Recall(s.t.Context(), name("D"), m.handle); err == nil {
			if m.recalled || m.at != nil {
				s.t.Errorf("%s was recalled after it was settled: %+v", id, m)
			}
			m.recalled = true
		}
	} else {
		due := s.wall.now().Add(time.Duration(s.rng.Int64N(int64(time.Hour)))).UnixMilli()
		var handle string
		if handle, _, err = s.b.Reschedule(s.t.Context(), name("D"), m.handle, due); err == nil {
			if m.recalled || m.at != nil {
				s.t.Errorf("%s was moved after it was settled: %+v", id, m)
			}
			m.handle, m.due = handle, due
		}
	}
	if err != nil && (far || ReasonOf(err) != BadRequest) {
		s.t.Errorf("%s is pending until %d, at %d: %v", id, m.due, s.wall.now().UnixMilli(), err)
	}
}

// drain receives all there is. What came into a queue, the log says not early.
func (s *timerSim) drain() {
	for {
		got := receive(s.t, s.b, "D", "G")
		if len(got) == 0 {
			return
		}
		for _, d := range got {
			id := string(d.Message.Body)
			m := s.all[id]
			if m.recalled || m.at != nil {
				s.t.Errorf("%s was delivered after it was settled: %+v", id, m)
			}
			m.at = &d
			tp, _ := s.b.topics.Lookup(name("D"))
			var e [1]consumequeue.Entry
			if _, err := s.b.index.Read(record.Key(tp.ID, d.Queue), d.Offset, e[:]); err != nil || e[0].StoreTime < m.due {
				s.t.Errorf("%s was due at %d and put into its queue at %d, %v", id, m.due, e[0].StoreTime, err)
			}
		}
		ack(s.t, s.b, "D", "G", got...)
	}
}

// ask looks a message up by its id.
func (s *timerSim) ask(id string) {
	m := s.all[id]
	page, _, err := s.b.FindMessages(s.t.Context(), MessageQuery{Topic: name("D"), ID: id, Limit: 10})
	if err != nil {
		s.t.Fatalf("%s: %v", id, err)
	}
	if len(page) != 1 {
		if pending := m.at == nil && !m.recalled; pending || len(page) > 0 {
			s.t.Errorf("%s: found %d times, %+v", id, len(page), m)
		}
		return // the log has it no more
	}
	f := page[0]
	switch {
	case m.recalled:
		// Retention may have taken the record of the recall and not yet the message.
		if f.State != MessageRecalled && f.State != MessageGone {
			s.t.Errorf("%s: %v, was recalled", id, f.State)
		}
	case m.at != nil:
		if f.State == MessageRetrying { // its acknowledgement is not applied yet
			f.State = MessageQueued
		}
		if f.State == MessageQueued && (f.Queue != m.at.Queue || f.Offset != m.at.Offset) || f.State != MessageQueued && f.State != MessageGone {
			s.t.Errorf("%s: %v %d/%d, was delivered at %d/%d", id, f.State, f.Queue, f.Offset, m.at.Queue, m.at.Offset)
		}
	case m.due > max(s.late, s.wall.now().UnixMilli()):
		if f.State != MessageDelayed || f.Due != m.due {
			s.t.Errorf("%s: %v until %d, is pending until %d", id, f.State, f.Due, m.due)
		}
	case f.State != MessageDelayed && f.State != MessageQueued:
		s.t.Errorf("%s: %v, is due and was not received", id, f.State)
	}
}

func (s *timerSim) restart() {
	lose := [][]string{nil, nil, {"consumequeue"}, {"keyindex"}, {"consumequeue", "keyindex"}}[s.rng.IntN(5)]
	if s.rng.IntN(4) == 0 {
		killed := s.disk.Kill()
		closeBroker(s.t, s.b)
		s.disk = killed
	} else {
		closeBroker(s.t, s.b)
		s.disk = s.disk.Kill()
	}
	for _, part := range lose {
		dir := filepath.Join("/data", part)
		names, err := s.disk.List(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, n := range names {
			if err := s.disk.Remove(filepath.Join(dir, n)); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	s.open()
}

// finish lets all come due.
func (s *timerSim) finish() {
	last := int64(0)
	for _, m := range s.all {
		last = max(last, m.due)
	}
	s.wall.jump(time.Duration(max(0, last-s.wall.now().UnixMilli())) * time.Millisecond)
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	for s.b.timers.Stats().Pending > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	s.drain()
	slices.Sort(s.ids)
	for _, id := range s.ids {
		if m := s.all[id]; m.at == nil && !m.recalled {
			s.t.Errorf("%s, due at %d, is lost", id, m.due)
		}
		s.ask(id)
	}
	s.t.Logf("%d messages", len(s.ids))
}
