package broker

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// restart stops the broker as an operator would, and starts it again.
func (s *sim) restart() {
	s.look()
	s.replay()
	want := s.state(s.b)
	index := s.index(s.b, want)
	s.must(s.b.Close())
	s.again(s.disk.Kill(), want, index)
}

// crash goes on with what the disk has when the process or the machine ends at
// this moment, without some of the files that can be made again.
func (s *sim) crash() {
	s.look()
	s.replay()
	want := s.state(s.b)
	index := s.index(s.b, want)
	disk := s.disk.Kill()
	if s.setup.Durability == commitlog.DurabilitySync {
		survival := pick(s.r, crashtest.Survivals)
		s.logf("power loss, %v survives", survival)
		s.must(s.disk.SyncDir("/data/commitlog")) // or segments that retention took may be back
		disk = s.disk.Crash(survival, s.r)
	}
	s.must(s.b.Close()) // it goes on with the old disk
	for _, part := range []string{"consumequeue", "keyindex", "state"} {
		if s.r.IntN(4) == 0 {
			s.lose(disk, part)
		}
	}
	if s.r.IntN(4) == 0 {
		s.loseCheckpoint(disk)
	}
	s.again(disk, want, index)
}

// lose removes a directory's files. When the log's beginning is gone only the newest
// checkpoint goes: without any there is no way back.
func (s *sim) lose(disk *crashtest.FS, part string) {
	dir := filepath.Join("/data", part)
	names, err := disk.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.must(err)
	if part == "state" && s.b.wal.Trimmed() {
		s.loseCheckpoint(disk)
		return
	}
	s.logf("without %s %v", part, names)
	for _, n := range names {
		s.must(disk.Remove(filepath.Join(dir, n)))
	}
	s.must(disk.SyncDir(dir))
}

// loseCheckpoint removes or damages the newest checkpoint. The one before it, if
// there was one, is good.
func (s *sim) loseCheckpoint(disk *crashtest.FS) {
	const dir = "/data/state"
	names, err := disk.List(dir)
	s.must(err)
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".ckpt") })
	if len(names) < 2 {
		return
	}
	newest := filepath.Join(dir, names[len(names)-1])
	if s.r.IntN(2) == 0 {
		s.logf("without %s", newest)
		s.must(disk.Remove(newest))
		return
	}
	s.logf("with %s damaged", newest)
	s.must(mmapfile.WriteFile(disk, newest, []byte("no checkpoint")))
}

// again starts the broker on the disk, after a while if downtime is wanted, and
// compares what it knows with what it knew.
func (s *sim) again(disk *crashtest.FS, want dispatch.Checkpoint, index simIndex) {
	s.disk = disk
	down := time.Duration(max(0, s.r.Int64N(300_000)-200_000)) * time.Millisecond
	ended := s.now()
	time.Sleep(down)
	var err error
	s.b, err = s.open(s.disk)
	s.must(err)
	s.opened = s.now()
	if down == 0 {
		s.quiet()
		s.sameState("after the restart", want, s.state(s.b))
		s.sameIndex("after the restart", index, s.index(s.b, want))
	} else {
		s.logf("down for %v", down)
	}
	for _, n := range sorted(s.clients) {
		s.clients[n].live, s.clients[n].listens = false, false
	}
	for _, g := range s.groups {
		clear(g.subs)
		for _, p := range g.places {
			if p.auto && !p.settled {
				// Nobody knows whether they arrived: they end after the grace.
				grace := s.opened + clientGrace.Milliseconds()
				if p.late <= ended {
					continue // they have, of the restart before
				}
				if p.early >= ended {
					p.early = min(p.end, grace)
				}
				p.late = min(p.end, grace+2*housekeepEvery.Milliseconds()+ReleaseDelay.Milliseconds())
			}
		}
	}
}

// replay compares the state, which came about by records as they came and by
// restarts from many checkpoints, with that of all of the log, applied at once:
// equal logs give equal states, byte by byte.
func (s *sim) replay() {
	s.quiet()
	want := s.state(s.b)
	disk := s.disk.Kill()
	for _, part := range []string{"state", "consumequeue", "keyindex"} {
		s.lose(disk, part)
	}
	b, err := s.open(disk)
	s.must(err)
	got := s.state(b)
	index := s.index(b, got)
	s.must(b.Close())
	s.sameState("after a replay", want, got)
	s.sameIndex("after a replay", s.index(s.b, want), index)
}

// state is the snapshot of a broker that has nothing to do.
func (s *sim) state(b *Broker) dispatch.Checkpoint { return b.snapshot(b.wal.Committed()) }

func (s *sim) sameState(when string, want, got dispatch.Checkpoint) {
	if got.Position != want.Position {
		s.failf("%s the log ends at %d, want %d", when, got.Position, want.Position)
	}
	for i := range want.Sections {
		switch {
		case i == sectionIndex, i == sectionKeys: // where what they hold is on disk
		case !bytes.Equal(got.Sections[i], want.Sections[i]):
			s.failf("%s section %d of the state is\n%x, want\n%x", when, i, got.Sections[i], want.Sections[i])
		}
	}
}

// simIndex is what queues hold.
type simIndex map[simPlaceOf]consumequeue.Entry

type simPlaceOf struct {
	key record.QueueKey
	off record.QueueOffset
}

// index reads all queues of a broker, as far as the log still has what they name.
func (s *sim) index(b *Broker, state dispatch.Checkpoint) simIndex {
	ends, err := consumequeue.Ends(state.Sections[sectionIndex])
	s.must(err)
	out := simIndex{}
	var e [64]consumequeue.Entry
	for key := range ends {
		if key.Topic() == record.TimerTopic && b.wal.Trimmed() {
			continue
		}
		low, high, _ := b.index.Bounds(key)
		for at := low; at < high; {
			n, err := b.index.Read(key, at, e[:])
			s.must(err)
			for _, e := range e[:n] {
				if e.Position >= b.wal.First() {
					out[simPlaceOf{key, at}] = e
				}
				at++
			}
		}
	}
	return out
}

func (s *sim) sameIndex(when string, want, got simIndex) {
	for at, e := range want {
		if got[at] != e {
			s.failf("%s queue %v has %+v at %d, want %+v", when, at.key, got[at], at.off, e)
		}
	}
	for at, e := range got {
		if _, ok := want[at]; !ok {
			s.failf("%s queue %v has %+v at %d", when, at.key, e, at.off)
		}
	}
}

// drain settles everything.
func (s *sim) drain() {
	for _, n := range sorted(s.groups) {
		g := s.groups[n]
		if s.topics[g.topic] == nil {
			continue
		}
		queues := anyQueue
		for tries := 0; ; tries++ {
			req := s.request(g)
			req.AttemptID, req.AutoRenew, req.Batch = "", false, 32
			if g.ofLites {
				if req.ClientID = g.clients[0]; tries == 0 { // from whoever has them
					s.sync(g, req.ClientID, LiteAdd, simLites)
				} else {
					s.sync(g, req.ClientID, LiteReplace, simLites)
				}
				queues = s.liteQueues(g, req.ClientID)
			}
			got := s.take(g, req, queues)
			for len(s.heldNow(g)) > 0 {
				s.ackSome(g)
			}
			can := s.ready(g, s.now(), queues)
			if got == 0 && len(can.sure) == 0 {
				if len(s.outstanding(g, queues)) == 0 {
					break
				}
				s.sleep(time.Minute)
			}
			if tries > 1000 {
				s.failf("%s does not end: %v outstanding, %v", n, s.outstanding(g, queues), sortedEntries(can.sure))
			}
		}
	}
}

// heldNow is what the group can acknowledge.
func (s *sim) heldNow(g *simGroup) (out []*simEntry) {
	for e, p := range g.places {
		if sure, _ := p.holds(s.now()); sure && !p.settled {
			out = append(out, e)
		}
	}
	return out
}

// outstanding is what a group that goes on with these queues will still get or
// settle.
func (s *sim) outstanding(g *simGroup, queues func(uint32) bool) (out []*simEntry) {
	for _, e := range sortedEntries(g.places) {
		if !g.places[e].settled && !e.gone() && queues(e.queue) { // a replay into a mixed topic's group brings lite ones, too
			out = append(out, e)
		}
	}
	return out
}
