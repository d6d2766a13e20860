package commitlog

import (
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/tally"
)

// Log is an open log. See the package comment for its goroutines.
type Log struct {
	opt  Options
	fs   mmapfile.FS
	lock io.Closer
	man  *manifestFile // owned by Open, then by prepare, then by Close

	// segs are the segments in order, never empty. The slice is replaced, never
	// changed. segMu serialises those who replace it: write adds at the end,
	// retention takes from the front.
	segs  atomic.Pointer[[]*segment]
	segMu sync.Mutex
	// dropMu makes retention take turns, so that names go in order.
	dropMu sync.Mutex

	mapper mapper
	cold   chan struct{} // a slot for each cold read that may wait for the disk

	// Watermarks. Each is stored after the bytes below it can be read, so whoever
	// loads it may read them.
	written        atomic.Uint64
	committed      atomic.Uint64
	committedIndex atomic.Uint64
	durableIndex   atomic.Uint64 // commit hints: below it a bad frame is corruption
	lastIndex      atomic.Uint64 // of the last written frame

	w    writer // owned by the write goroutine; of a replicated log, by who holds storeMu
	live live

	// Of a replicated log: storeMu makes Store and TruncateAfter take turns, and
	// marks knows where the newest frames are.
	storeMu sync.Mutex
	marks   marks

	mu sync.Mutex
	// wakeWrite is for the write goroutine (work, a finished sync, a new segment),
	// wakeSync for the sync goroutine, wakeSubmit for callers that wait for room.
	// wakeDurable for whoever waits in Sync.
	wakeWrite, wakeSync, wakeSubmit, wakeDurable *sync.Cond

	queue      []*Batch // submitted, in order
	queueSpare []*Batch // the other one of two slices that take turns
	queueBytes int64
	plan       plan

	pending       []*Batch // written, not yet committed
	pendingSpare  []*Batch
	pendingTail   tail      // end of what is written
	pendingSeg    *segment  // where it is
	durable       tail      // end of what is known durable
	unsyncedSince time.Time // what is beyond durable was written then or later
	agreed        mark      // of a replicated log: the last committed frame
	cuts          int       // how often TruncateAfter took something back
	syncing       bool
	tickDue       bool // SyncEvery has passed since the last sync began

	spares    []spare // segments to be, made by prepare, taken by write
	nextSpare int     // number in the next spare's name
	wantSpare bool    // a Submit waits for one
	diskFull  bool
	closed    bool  // no more Submit
	drained   bool  // the write goroutine is done
	shut      bool  // no more spares: their files are closed
	err       error // why the log failed

	// kick tells the prepare goroutine that something is to do; kickAt is the
	// position from which on the write goroutine does so.
	kick      chan struct{}
	kickAt    atomic.Uint64
	stop      chan struct{} // closed by Close when writing and syncing are done
	writeDone chan struct{}
	syncDone  chan struct{}
	prepDone  chan struct{}
	closeOnce sync.Once
	closeErr  error

	suspects chan *segment // which Scrub is to look at now

	waitMu  sync.Mutex
	waiters []chan struct{} // readers at the end; each is woken once
	over    bool            // closed or failed: no reader waits any more

	// syncMu and syncErr belong to datasync.
	syncMu  sync.Mutex
	syncErr error

	stats counters
}

// Open opens the log in Options.Dir, or makes an empty one in an empty
// directory, and recovers it: see recover.go for what it cuts and what it
// refuses with a *CorruptError. A *mmapfile.LockedError says that another
// process has it open.
func Open(opt Options) (*Log, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Log{
		opt:       opt,
		fs:        opt.FS,
		cold:      make(chan struct{}, coldReads),
		kick:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		writeDone: make(chan struct{}),
		syncDone:  make(chan struct{}),
		prepDone:  make(chan struct{}),
		suspects:  make(chan *segment, 1),
	}
	l.mapper.limit = opt.MaxMapped
	l.w.term = firstTerm
	for _, c := range []**sync.Cond{&l.wakeWrite, &l.wakeSync, &l.wakeSubmit, &l.wakeDurable} {
		*c = sync.NewCond(&l.mu)
	}
	if err := l.fs.MkdirAll(opt.Dir); err != nil {
		return nil, fmt.Errorf("commitlog: %w", err)
	}
	if l.lock, err = l.fs.Lock(opt.Dir); err != nil {
		return nil, fmt.Errorf("commitlog: %w", err)
	}
	found, err := l.recover()
	if err != nil {
		l.releaseFiles()
		return nil, err
	}
	last := l.last()
	l.written.Store(uint64(found.frames.pos))
	l.lastIndex.Store(found.frames.index)
	committed := found.frames
	if opt.Replicated {
		if l.agreed, err = l.findAgreed(); err != nil {
			l.releaseFiles()
			return nil, err
		}
		committed = l.agreed.tail
	}
	l.committed.Store(uint64(committed.pos))
	l.committedIndex.Store(committed.index)
	l.durableIndex.Store(found.frames.index)
	l.durable, l.pendingTail, l.pendingSeg = found.frames, found.frames, last
	l.plan = plan{pos: found.next.pos, end: last.end(), limit: last.end()}
	for _, s := range l.spares {
		l.plan.limit += record.Position(s.file.Size())
	}
	l.w.l, l.w.seg, l.w.tail = l, last, found.next
	if opt.Replicated {
		close(l.writeDone) // who stores is the writer
	} else {
		go l.runWriter()
	}
	go l.runSyncer()
	go l.runPreparer()
	return l, nil
}

// Close waits until everything submitted is committed, saves where the log ends
// and closes it. Open views stay valid. It returns the error the log failed
// with, if it did.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.wakeWrite.Broadcast()
		l.wakeSubmit.Broadcast()
		l.mu.Unlock()
		<-l.writeDone
		l.storeMu.Lock() // what has been admitted is stored
		l.mu.Lock()
		l.drained = true
		l.wakeSync.Broadcast()
		l.mu.Unlock()
		l.storeMu.Unlock()
		<-l.syncDone
		close(l.stop)
		<-l.prepDone
		l.endReading()
		l.mu.Lock()
		l.closeErr = l.err
		end := l.checkpointable()
		l.mu.Unlock()
		if l.closeErr == nil {
			l.closeErr = l.man.checkpoint(end)
		}
		l.releaseFiles()
	})
	return l.closeErr
}

// releaseFiles gives back what Open took, in whatever state Open was left.
func (l *Log) releaseFiles() {
	l.mu.Lock()
	l.shut = true
	spares := l.spares
	l.mu.Unlock()
	for _, s := range spares {
		s.file.Close()
	}
	if segs := l.segs.Load(); segs != nil {
		for _, s := range *segs {
			l.mapper.forget(s)
			s.drop()
		}
	}
	if l.man != nil {
		l.man.file.Close()
	}
	l.lock.Close()
}

// fail makes the log fail for good, once. Nobody who waits is told success.
func (l *Log) fail(cause error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = fmt.Errorf("%w: %w", ErrFailed, cause)
	err := l.err
	waiting := append(append([]*Batch(nil), l.pending...), l.queue...)
	l.pending, l.queue, l.queueBytes = nil, nil, 0
	l.wakeWrite.Broadcast()
	l.wakeSync.Broadcast()
	l.wakeSubmit.Broadcast()
	l.wakeDurable.Broadcast()
	l.mu.Unlock()
	for _, b := range waiting {
		b.finish(err)
	}
	l.endReading()
	l.opt.Fatal(err)
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// First is the position of the oldest frame, or where it will be.
func (l *Log) First() record.Position { return (*l.segs.Load())[0].start() }

// Trimmed reports whether retention has removed the beginning of the log.
func (l *Log) Trimmed() bool { return (*l.segs.Load())[0].base > 0 }

// Written is the end of the last frame that was written.
func (l *Log) Written() record.Position { return record.Position(l.written.Load()) }

// Committed is the end of the last committed frame: readers see what is below.
func (l *Log) Committed() record.Position { return record.Position(l.committed.Load()) }

// Durable is the end of what is known to be on disk.
func (l *Log) Durable() record.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable.pos
}

// Time returns when the newest frame was written, Unix ns by Options.Now.
func (l *Log) Time() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pendingTail.time
}

// Index is the index of the last committed frame, 0 before the first.
func (l *Log) Index() uint64 { return l.committedIndex.Load() }

func (l *Log) last() *segment {
	segs := *l.segs.Load()
	return segs[len(segs)-1]
}

// find returns the segment that holds pos, or nil.
func (l *Log) find(pos record.Position) *segment {
	segs := *l.segs.Load()
	lo, hi := 0, len(segs)
	for lo < hi { // first segment that ends after pos
		if mid := (lo + hi) / 2; segs[mid].end() > pos {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == len(segs) || segs[lo].base > pos {
		return nil
	}
	return segs[lo]
}

func (l *Log) path(name string) string { return filepath.Join(l.opt.Dir, name) }

// counters are written by their goroutine and read by Stats.
type counters struct {
	batches, frames, groups, bytes, syncs atomic.Int64
	syncTime, syncMax                     atomic.Int64    // ns
	shared                                tally.Histogram // batches of a group
	syncLasted                            tally.Histogram // us
	scrubbed                              atomic.Int64    // bytes
}

// Stats is a snapshot for metrics and tests; its numbers are not from one
// instant. Counts are since Open.
type Stats struct {
	First, Written, Committed record.Position
	Durable                   record.Position
	Oldest                    int64  // when the first frame was written, Unix ms; 0 = there is none
	Index                     uint64 // of the last committed frame
	Segments                  int
	DiskBytes                 int64 // taken by segments and spares
	QueueBytes                int64 // submitted, not yet written
	MappedBytes               int64
	Views                     int64 // open; 0 at rest, or somebody leaks
	Batches, Frames, Groups   int64 // a group is one write
	Bytes                     int64 // written, headers included
	Syncs                     int64
	SyncTime, SyncMax         time.Duration // total and longest fdatasync
	Shared                    tally.Counts  // batches that share a group
	SyncLasted                tally.Counts  // us
	Scrubbed                  int64         // bytes that were verified though nobody read them
	Verified                  int64         // all of the log was written or verified since, Unix ms; 0 = not since Open
	DiskFull                  bool
	Err                       error // why the log failed
}

// Unload takes what is mapped of the log out of this process's memory. The page
// cache keeps it, and every view stays good.
func (l *Log) Unload() error { return l.mapper.unload() }

// oldest is when the first frame was written, Unix ms, 0 when there is none or it went
// at this moment.
func (l *Log) oldest() int64 {
	s := (*l.segs.Load())[0]
	if s.start() >= l.Committed() {
		return 0
	}
	h, err := l.header(s, s.start())
	if err != nil {
		return 0
	}
	return h.Time / 1e6
}

func (l *Log) Stats() Stats {
	c := &l.stats
	st := Stats{
		First: l.First(), Written: l.Written(), Committed: l.Committed(), Index: l.Index(),
		MappedBytes: l.mapper.bytes.Load(), Views: l.mapper.views.Load(),
		Batches: c.batches.Load(), Frames: c.frames.Load(), Groups: c.groups.Load(), Bytes: c.bytes.Load(),
		Syncs: c.syncs.Load(), SyncTime: time.Duration(c.syncTime.Load()), SyncMax: time.Duration(c.syncMax.Load()),
		Shared: c.shared.Read(), SyncLasted: c.syncLasted.Read(), Oldest: l.oldest(),
		Scrubbed: c.scrubbed.Load(), Verified: (*l.segs.Load())[0].verified.Load(),
	}
	for _, s := range *l.segs.Load() {
		st.Verified = min(st.Verified, s.verified.Load())
		st.Segments++
		st.DiskBytes += s.size
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.spares {
		st.DiskBytes += s.file.Size()
	}
	st.Durable = l.durable.pos
	st.QueueBytes, st.DiskFull, st.Err = l.queueBytes, l.diskFull, l.err
	return st
}
