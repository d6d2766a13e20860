package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

const (
	sparePattern = "spare-%d.tmp"

	// checkpointBytes is how far recovery has to scan, about; less if segments are
	// smaller.
	checkpointBytes = 64 << 20

	// diskRetry is how often a full disk is tried again. Each try takes what is left
	// of the space for a moment, so not too often.
	diskRetry = 3 * time.Second

	// The first write to a block that was only allocated changes metadata, and the
	// fdatasync after it has to commit the file system's journal: on ext4 three
	// times the latency of a sync over blocks that were written before. So blocks
	// are written with zeros some way ahead of the log. That doubles what the disk
	// has to do, so it is not done when syncs are large and their latency is the
	// data's (zeroBelow bytes per sync or more). zeroAhead is how far ahead,
	// reached step by step: a log that is hardly used zeroes hardly anything.
	// BenchmarkSmallSyncs on ext4, three runs each on a busy machine: median 0.20 ms
	// with and 0.27 ms without, 90th percentile 0.25 to 1.6 ms and 0.8 to 3.0 ms.
	//
	// The log's own sync has to wait for zeros that are just being synced. So they
	// are written a zeroStep at a time, while half as much is used up, and never many
	// steps in a row: 5,000 records of 1 KiB a second, a quiet disk, 99th percentile
	// of an append 2.0 to 2.5 ms, against 4.2 to 6.6 ms with 1 MiB at a time, eight times
	// in a row; a sync that met zeros took 0.7 and 2.3 ms (medians).
	zeroAheadMin = 1 << 20
	zeroAheadMax = 16 << 20
	zeroBelow    = 128 << 10
	zeroStep     = 128 << 10
)

// preparer is the state of the prepare goroutine.
type preparer struct {
	l       *Log
	started record.Position // where the log ended at Open
	// A descriptor of its own for the segment that is being zeroed: syncing zeros
	// must not make the log's sync wait for its turn (see datasync).
	zeroSeg  *segment
	zeroFile mmapfile.File
	// Counters when the rate was last looked at.
	bytes, syncs int64
}

// runPreparer does what can be done ahead: spares, zeros, checkpoints.
func (l *Log) runPreparer() {
	defer close(l.prepDone)
	p := &preparer{l: l, started: l.Written()}
	defer p.closeZeroFile()
	retry := time.NewTimer(diskRetry)
	defer retry.Stop()
	for {
		if err := p.step(); err != nil {
			l.fail(err)
			return
		}
		retry.Reset(diskRetry)
		var again <-chan time.Time
		l.mu.Lock()
		if l.diskFull {
			again = retry.C
		}
		l.mu.Unlock()
		select {
		case <-l.kick:
		case <-again:
		case <-l.stop:
			return
		}
	}
}

func (l *Log) kickPreparer() {
	l.wantSpare = true // under mu, by Submit
	l.kickNow()
}

func (l *Log) kickNow() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// watchSegment is called by the write goroutine after each group.
func (l *Log) watchSegment(s *segment, end int64) {
	if uint64(s.base)+uint64(end) >= l.kickAt.Load() {
		l.kickNow()
	}
}

func (p *preparer) step() error {
	l := p.l
	// From here on every group kicks, until it is clear below when the next
	// should: what happens in between must not be missed.
	l.kickAt.Store(0)
	l.mu.Lock()
	seg, pos, safe := l.pendingSeg, l.pendingTail.pos, l.checkpointable()
	half := seg.base + record.Position(seg.size/2)
	need := l.wantSpare || l.diskFull || len(l.spares) == 0 && pos >= half
	l.wantSpare = false
	err := l.err
	l.mu.Unlock()
	if err != nil {
		return nil // the log has failed already
	}
	if need {
		if err := p.ensureSpare(); err != nil {
			return err
		}
	}
	every := record.Position(min(checkpointBytes, l.opt.SegmentSize/2))
	if safe.tail.pos >= l.man.m.Checkpoint.pos+every {
		if err := l.man.checkpoint(safe); err != nil {
			return err
		}
	}
	zeroed, err := p.zero(seg, pos)
	if err != nil {
		return err
	}
	next := min(zeroed, l.man.m.Checkpoint.pos+every)
	if pos < half {
		next = min(next, half)
	}
	l.kickAt.Store(uint64(max(next, pos+1)))
	return nil
}

func (p *preparer) ensureSpare() error {
	l := p.l
	sp, err := l.makeSpare()
	full := errors.Is(err, mmapfile.ErrNoSpace)
	if err != nil && !full {
		return err
	}
	if !full {
		l.addSpare(sp)
		return nil
	}
	l.mu.Lock()
	changed := !l.diskFull
	l.diskFull = true
	l.wakeSubmit.Broadcast()
	l.mu.Unlock()
	if changed {
		l.opt.Logger.Error("commit log: no space for the next segment, refusing messages", "err", err)
	}
	return nil
}

// addSpare makes sp available. The log may have been closed in the meantime:
// then nobody will close its file but we.
func (l *Log) addSpare(sp spare) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		sp.file.Close()
		return
	}
	l.spares = append(l.spares, sp)
	l.plan.limit += record.Position(l.opt.SegmentSize)
	l.diskFull = false
	l.wakeWrite.Broadcast()
	l.wakeSubmit.Broadcast()
}

// makeSpare allocates a file. Its name needs no sync before it is renamed.
func (l *Log) makeSpare() (spare, error) {
	l.mu.Lock()
	path := l.path(fmt.Sprintf(sparePattern, l.nextSpare))
	l.nextSpare++
	l.mu.Unlock()
	file, err := l.fs.Create(path, l.opt.SegmentSize)
	return spare{path: path, file: file}, err
}

// takeSpare returns the oldest spare, for the write goroutine. There is one,
// because Submit accepted no more than there is room for.
func (l *Log) takeSpare() (spare, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.spares) == 0 {
		if l.err != nil {
			return spare{}, l.err
		}
		l.wantSpare = true
		l.kickNow()
		l.wakeWrite.Wait()
	}
	sp := l.spares[0]
	l.spares = l.spares[1:]
	return sp, nil
}

// passZeros makes sure that no zeros will be written below offset end, before
// the write goroutine writes there.
func (s *segment) passZeros(end int64) {
	if end <= s.zeroed.Load() {
		return
	}
	s.zeroMu.Lock()
	s.zeroed.Store(end)
	s.zeroMu.Unlock()
}

// zero writes zeros ahead of pos, if they are running out and worth it. It
// returns the position at which it wants to be asked again.
func (p *preparer) zero(s *segment, pos record.Position) (again record.Position, err error) {
	l := p.l
	ahead := min(max(4*int64(pos-p.started), zeroAheadMin), zeroAheadMax)
	off := int64(pos - s.base)
	until := min(off+ahead, s.size)
	switch z := s.zeroed.Load(); {
	case z >= s.size:
		return s.end(), nil
	case z-off > ahead-zeroStep:
		return s.base + record.Position(z-ahead+zeroStep), nil
	}
	bytes, syncs := l.stats.bytes.Load(), l.stats.syncs.Load()
	large := bytes-p.bytes >= zeroBelow*max(syncs-p.syncs, 1)
	p.bytes, p.syncs = bytes, syncs
	if large || l.opt.Durability != DurabilitySync {
		return pos + zeroAheadMax, nil
	}
	// Held, so that the file is not made a spare, and written anew, meanwhile.
	if !s.hold() {
		return pos, nil
	}
	defer s.drop()
	if s != p.zeroSeg {
		p.closeZeroFile()
		p.zeroFile, err = l.fs.Open(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return pos, nil // retention has taken the name
		}
		if err != nil {
			return 0, err
		}
		p.zeroSeg = s
	}
	n, err := p.zeroChunk(s, until)
	if err == nil && n > 0 {
		err = p.zeroFile.Datasync()
	}
	return pos + zeroStep/2, err // twice as quick as the log, until ahead is reached
}

// zeroChunk is a write under a lock, on purpose: the lock is what keeps the
// write goroutine from overtaking it (see passZeros).
func (p *preparer) zeroChunk(s *segment, until int64) (int64, error) {
	s.zeroMu.Lock()
	defer s.zeroMu.Unlock()
	z := s.zeroed.Load()
	n := min(until-z, zeroStep)
	if n <= 0 {
		return 0, nil
	}
	if _, err := p.zeroFile.WriteAt(zeros[:n], z); err != nil {
		return 0, err
	}
	s.zeroed.Store(z + n)
	return n, nil
}

func (p *preparer) closeZeroFile() {
	if p.zeroFile != nil {
		p.zeroFile.Close()
		p.zeroFile, p.zeroSeg = nil, nil
	}
}
