package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/admission"
	"github.com/gantry-mq/gantry/broker/dedup"
	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/producer"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/replay"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/keyindex"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/clock"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/scheduler"
)

// Options of a broker. Dir must be given; the rest may be zero.
type Options struct {
	Dir          string               // data directory; made when missing
	FS           mmapfile.FS          // nil = the operating system's
	Durability   commitlog.Durability // when a send is answered
	SegmentSize  int64                // bytes; 0 = the log's default
	MaxMapped    int64                // bytes of log kept mapped; 0 = the log's default
	RetentionAge time.Duration        // 0 = keep
	// RetentionSize bounds the log in bytes; the oldest segments go first. 0 = keep.
	RetentionSize   int64
	CheckpointEvery int64 // bytes of log between checkpoints; 0 = 64 MiB
	// Sizes of the indexes' files; 0 = the defaults of consumequeue and keyindex.
	ArenaSize         int64
	KeySegmentEntries int
	BrokerName        string // as clients see it; "" = gantry
	AutoCreateGroups  bool   // a group comes into being when it is first named
	// NewGroup lets a group come into being where the tables are that this broker
	// mirrors, from where it gets here: see mirror.go. nil = the tables are its own.
	NewGroup func(ctx context.Context, name record.Resource) error
	// MaxDelay is how far ahead a delivery time may be. 0 = DefaultMaxDelay; 24 h is
	// what the reference broker's proxy takes.
	MaxDelay time.Duration
	// SendMemory bounds the bytes of sends, of both doors, that are under way; more is
	// refused. 0 = DefaultSendMemory.
	SendMemory int64
	// DiskFree returns the bytes that are free where Dir is, for a process without
	// privileges. Below DiskReserve sends are refused; commands go on. nil = not asked.
	DiskFree    func() (int64, error)
	DiskReserve int64
	// Undecided half messages: the age at which a producer is asked for the first
	// time unless it wished for another, the pause between checks, and how many
	// there are before the message is parked. 0 = as in limits.go.
	TransactionCheckAfter time.Duration
	TransactionCheckEvery time.Duration
	TransactionCheckMax   int
	// MasterKey seals the secrets of users. nil: none can be made, and nobody can be
	// authenticated.
	MasterKey *access.MasterKey
	Logger    *slog.Logger

	// Trace is told of each step of messages that carry a trace context which is
	// sampled. It must not block. Nil: nobody is told, and nothing is paid for it.
	Trace func(Step)

	// Log is a replicated log, from OpenLog: see lead.go. nil = the broker's own.
	Log *commitlog.Log
	// Remember is called before the beginning of Log is dropped: whoever replicates
	// it needs nothing of that afterwards. With an error nothing is dropped.
	Remember func() error
	// Wall is the wall clock, nil = the system's. The monotonic part of its times is
	// not used.
	Wall func() time.Time
	// ScrubRate is how fast the log is verified that nobody reads, in bytes a second; 0 =
	// only what a damaged record is in.
	ScrubRate int64
	// Damaged is told of damage that is found while the broker is open: commitlog.ErrCorrupt,
	// or an index, which the next Open makes again. It must not wait for the broker. nil: it
	// is only logged, counted and shown.
	Damaged func(error)
	// Fatal is called when the log can no longer be trusted to keep what it is
	// given. nil ends the process.
	Fatal func(error)
}

// appender is what the broker needs of whatever orders records: the bare log, or
// a Term.
type appender interface {
	// Submit fixes the batch's place in the order. Batch.Wait says when it is committed.
	Submit(*commitlog.Batch) error
}

// Broker is an open broker.
type Broker struct {
	opts   Options
	log    *slog.Logger
	tracer *tracer // nil = off
	clock  *clock.Clock

	wal    *commitlog.Log
	append appender
	index  *consumequeue.Store
	keys   *keyindex.Index

	topics       *topic.Table
	groups       *group.Table
	inflight     *inflight.Tracker
	transactions *transaction.Table
	replays      *replay.Table
	producers    *producer.Table
	timers       *scheduler.Scheduler
	dedup        *dedup.Table
	access       *access.Table
	quotas       *quota.Table
	hub          *longpoll.Hub
	sessions     *session.Registry
	filters      filterGuard
	compiled     filterCache
	dispatcher   *dispatch.Dispatcher

	handles  atomic.Pointer[handleKey]
	identity identity // set by the dispatcher
	storeID  atomic.Uint64

	sequence       sequencer
	wakes          wakes       // the dispatcher's
	firing         firing      // the dispatcher's
	keyHashes      []uint64    // the dispatcher's scratch memory
	moved          movedRanges // housekeep's
	sizes          topicSizes  // housekeep's
	retainAfter    time.Time   // housekeep's
	live           atomic.Bool // what is applied is new, not replayed, and this broker serves
	tableOp        chan struct{}
	changes        tableChanges
	deadOp         chan struct{} // held while dead letters are settled, and by retention
	replaysRunning sync.Map      // inflight.SubKey -> true, while somebody does it
	lites          *lite.Table
	liteSubs       *lite.Subscriptions
	liteGate       chan struct{} // held by the one sender that makes lite topics, or by who deletes some
	liteMu         sync.Mutex
	liteMade       map[liteName]uint32      // made and not applied yet
	liteFence      sync.RWMutex             // read-held from the look-up of a lite topic until its message is submitted
	liteGoing      map[record.QueueKey]bool // under liteFence: about to be deleted
	liteScanned    time.Time                // housekeep's: when it last looked for lite topics to delete
	checkpt        checkpointer
	firstLease     uint64 // leases with lower ids are from before the start
	counters       counters
	gate           gate
	unpacking      unpacked      // holds bodies that were decompressed, until they are sent
	diskShort      atomic.Bool   // sends are refused, see diskspace.go
	indexShort     atomic.Bool   // and nothing is applied
	diskFree       atomic.Int64  // as of the last look, bytes
	deletions      atomic.Uint64 // delete records applied
	opened         time.Time
	led            time.Time     // when it began to serve
	term           Term          // nil while it follows, and for a log of its own
	logBegins      atomic.Uint64 // of a replicated log, see logbegin.go
	dropping       sync.Mutex    // held while a beginning is dropped
	digests        digests

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	run    sync.WaitGroup
	failed atomic.Pointer[error]
}

// Open opens or makes the data directory, brings the state up to the end of the
// log and starts serving. A directory in use by another process is refused.
func Open(ctx context.Context, opts Options) (*Broker, error) {
	opts.setDefaults()
	b := &Broker{
		opts:         opts,
		log:          opts.Logger.With(logging.Component, "broker"),
		topics:       topic.NewTable(),
		groups:       group.NewTable(),
		transactions: transaction.New(opts.TransactionCheckAfter),
		replays:      replay.New(),
		producers:    producer.NewTable(),
		dedup:        dedup.New(),
		access:       access.NewTable(opts.MasterKey),
		quotas:       quota.NewTable(sinceStart()),
		tracer:       newTracer(opts.Trace),
		hub:          longpoll.New(MaxWaitersPerGroup, MaxWaiters),
		tableOp:      make(chan struct{}, 1),
		deadOp:       make(chan struct{}, 1),
		lites:        lite.NewTable(),
		liteSubs:     lite.NewSubscriptions(MaxLiteSubscriptions),
		liteGate:     make(chan struct{}, 1),
		liteMade:     map[liteName]uint32{},
		opened:       time.Now(),
		clock:        clock.New(opts.Wall),
	}
	b.gate.Gate = admission.New(opts.SendMemory, MaxSends, min(SendsPerProcessor*runtime.GOMAXPROCS(0), MaxSends/2))
	b.unpacking = unpacked{Gate: admission.New(MaxUnpacked/3*4, MaxSends, MaxSends), lying: map[*lying]struct{}{}} // one door takes three quarters
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.inflight = inflight.New(b.leasesEnded, b.queueExists, b.liteFreed)
	b.sessions = session.New(ClientExpiry, b.clientGone)
	stop := context.AfterFunc(ctx, b.cancel)
	err := b.open(ctx)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		b.cancel()
		return nil, errors.Join(err, b.closeStores())
	}
	b.follow()
	if opts.Log == nil {
		if err := b.lead(); err != nil {
			b.fatal(err)
		}
	}
	return b, nil
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = mmapfile.OS
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("the broker cannot go on", "error", err)
			os.Exit(1)
		}
	}
	o.BrokerName = cmp.Or(o.BrokerName, "gantry")
	o.CheckpointEvery = cmp.Or(o.CheckpointEvery, 64<<20)
	o.MaxDelay = cmp.Or(o.MaxDelay, DefaultMaxDelay)
	o.SendMemory = cmp.Or(o.SendMemory, DefaultSendMemory)
	o.TransactionCheckAfter = cmp.Or(o.TransactionCheckAfter, DefaultRecheckMin)
	o.TransactionCheckEvery = cmp.Or(o.TransactionCheckEvery, TransactionCheckEvery)
	o.TransactionCheckMax = cmp.Or(o.TransactionCheckMax, TransactionCheckMax)
}

func (b *Broker) open(ctx context.Context) error {
	stateDir := b.opts.stateDir()
	indexDir := filepath.Join(b.opts.Dir, "consumequeue")
	keysDir := filepath.Join(b.opts.Dir, "keyindex")
	if err := prepareDirs(b.opts.FS, b.opts.Dir, stateDir, indexDir, keysDir, b.opts.LogDir()); err != nil {
		return err
	}
	cp, found, skipped, err := dispatch.ReadCheckpoint(b.opts.FS, stateDir)
	if err != nil {
		return err
	}
	for _, bad := range skipped {
		b.log.Warn("checkpoint not usable, an older one is tried", "error", bad)
	}
	if b.wal = b.opts.Log; b.wal == nil {
		o := b.opts.logOptions()
		o.Sequence, o.Now, o.Known, o.Fatal = b.sequence.stamp, b.clock.Now, cp.Position, b.fatal
		if b.wal, err = commitlog.Open(o); err != nil {
			return err
		}
	}
	b.append = b.wal // which refuses, if it is replicated
	b.clock.Reach(b.wal.Time())
	if !found {
		cp.Position = b.wal.First()
		if b.wal.Trimmed() {
			return fmt.Errorf("%w: the log begins at %d but there is no usable checkpoint in %s: topics, groups and progress before it are lost; restore the directory", ErrDamaged, cp.Position, stateDir)
		}
	}
	// A replicated log's end may not be known to be committed yet; it will be.
	if b.opts.Log == nil && cp.Position > b.wal.Committed() {
		return fmt.Errorf("broker: the checkpoint is at %d but the log ends at %d: the log has lost its end", cp.Position, b.wal.Committed())
	}
	rebuild, err := b.restore(cp, found, indexDir)
	if err != nil {
		return err
	}
	rebuildKeys, err := b.openKeys(cp, found, keysDir)
	if err != nil {
		return err
	}
	b.sequence.next = b.nextOffset
	if err := b.restoreTimers(cp, found); err != nil {
		return err
	}
	if rebuild {
		if err := b.rebuildIndex(ctx, cp.Sections[sectionIndex], cp.Position); err != nil {
			return err
		}
	}
	if rebuildKeys {
		if err := b.rebuildKeys(ctx, cp.Position); err != nil {
			return err
		}
	}
	b.checkpt.init(b, stateDir, cp.Position)
	b.dispatcher = dispatch.New(b.wal.Follow(cp.Position), cp.Position, b.opts.CheckpointEvery, dispatch.Sinks{
		Apply: b.apply, ApplyPack: b.applyPack, Wake: b.wakeWaiters, Checkpoint: b.checkpt.take,
	})
	if err := b.dispatcher.CatchUp(ctx, b.wal.Committed()); err != nil {
		return err
	}
	if b.wal.Trimmed() { // an older checkpoint, or a rebuild, has entries of what is gone
		if err := b.index.DropBefore(b.wal.First()); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	b.log.Info("state restored", "checkpoint", cp.Position, "log_end", b.wal.Committed(), "topics", len(b.topics.List()), "took", time.Since(b.opened).Round(time.Millisecond))
	return nil
}

// now is the record's time, Unix ms.
func (b *Broker) now() int64 { return b.clock.Now() / 1e6 }

func (b *Broker) fatal(err error) {
	if b.failed.CompareAndSwap(nil, &err) {
		b.opts.Fatal(err)
	}
}

// Ready returns nil while the broker serves, and why not otherwise.
func (b *Broker) Ready() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	if b.ctx.Err() != nil {
		return errors.New("broker: closing")
	}
	return nil
}

// Name is the broker's name in routes.
func (b *Broker) Name() string { return b.opts.BrokerName }

// Sessions returns the registry of connected clients.
func (b *Broker) Sessions() *session.Registry { return b.sessions }

// Close ends parked receives, stops all work, writes a checkpoint and closes what
// Open opened. Callers make no new calls once they call Close.
func (b *Broker) Close() error {
	b.cancel()
	b.hub.WakeAll()
	b.run.Wait()
	var err error
	if b.failed.Load() == nil && !b.indexShort.Load() { // else a frame may be applied in part
		err = b.checkpt.final()
	}
	return errors.Join(err, b.closeStores())
}

func (b *Broker) closeStores() error {
	var errs []error
	if b.wal != nil && b.opts.Log == nil {
		errs = append(errs, b.wal.Close())
	}
	if b.index != nil {
		errs = append(errs, b.index.Close())
	}
	if b.keys != nil {
		errs = append(errs, b.keys.Close())
	}
	return errors.Join(errs...)
}

// await returns when batch is committed and its records are applied.
func (b *Broker) await(batch *commitlog.Batch) error {
	if err := batch.Wait(context.Background()); err != nil {
		return wrapAppend(err)
	}
	if err := b.dispatcher.Await(context.Background(), batch.End()); err != nil {
		return Errorf(Unavailable, "the broker is shutting down: %w", err)
	}
	return nil
}

// commit appends the batch and waits until its records are applied.
func (b *Broker) commit(batch *commitlog.Batch) error {
	if err := b.append.Submit(batch); err != nil {
		return wrapAppend(err)
	}
	return b.await(batch)
}

// wrapAppend says to a client what a failed append means.
func wrapAppend(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, commitlog.ErrDiskFull):
		return Errorf(TooManyRequests, "the disk is full, nothing was stored: %w", err)
	case errors.Is(err, commitlog.ErrBatchTooLarge):
		return Errorf(BodyTooLarge, "the request is larger than one append may be: %w", err)
	}
	return Errorf(Unavailable, "the log does not take writes: %w", err)
}

// record1 returns a batch of one command.
func record1(cmd []byte) *commitlog.Batch {
	batch := &commitlog.Batch{}
	batch.Add(cmd, nil)
	return batch
}
