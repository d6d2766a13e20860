package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// A broker either has its log to itself, orders it, and serves from Open on. Or
// the log is replicated: then a broker follows it, as far as it is committed, and
// serves when Lead has made it the leader of a term. What it decides from memory
// is good for that term: when it is over the broker is closed, and opened anew on
// the same log.

// Term orders the log while it lasts: a *replica.Term is one.
type Term interface {
	appender
	// Begin lets Submit append. now and sequence are as in commitlog.Options.
	Begin(now func() int64, sequence func(now int64, b *commitlog.Batch))
	// Over is closed when it has ended, before anybody is told that an append failed.
	Over() <-chan struct{}
}

// OpenLog opens the log of a replica, for Options.Log of all the brokers that will
// follow it: opts are theirs. The caller closes it after the last of them.
func OpenLog(opts Options) (*commitlog.Log, error) {
	opts.setDefaults()
	if err := prepareDirs(opts.FS, opts.Dir, opts.stateDir(), opts.LogDir()); err != nil {
		return nil, err
	}
	cp, _, _, err := dispatch.ReadCheckpoint(opts.FS, opts.stateDir())
	if err != nil {
		return nil, err
	}
	o := opts.logOptions()
	o.Known, o.Fatal, o.Replicated = cp.Position, opts.Fatal, true
	return commitlog.Open(o)
}

// ReadCheckpoint returns the newest checkpoint in Options.Dir, for WriteCheckpoint in
// another directory that gets the log, too, and the position up to which the log is
// in it. It may be called beside a running broker.
func ReadCheckpoint(opts Options) ([]byte, record.Position, error) {
	opts.setDefaults()
	cp, found, _, err := dispatch.ReadCheckpoint(opts.FS, opts.stateDir())
	if err == nil && !found {
		err = errors.New("broker: there is no checkpoint yet")
	}
	if err != nil {
		return nil, 0, err
	}
	return dispatch.AppendCheckpoint(nil, cp), cp.Position, nil
}

// WriteCheckpoint makes b, which is verified, the only checkpoint of a directory
// that no broker has opened.
func WriteCheckpoint(opts Options, b []byte) (record.Position, error) {
	opts.setDefaults()
	cp, err := dispatch.ParseCheckpoint(b)
	if err != nil {
		return 0, err
	}
	if err := prepareDirs(opts.FS, opts.Dir, opts.stateDir(), opts.LogDir()); err != nil {
		return 0, err
	}
	return cp.Position, dispatch.WriteCheckpoint(opts.FS, opts.stateDir(), cp, cp.Position)
}

// SetAside moves all that a broker has in Options.Dir, and nobody has open, to another
// directory of the same file system. What is moved already stays.
func SetAside(opts Options, to string) error {
	opts.setDefaults()
	lock, err := opts.FS.Lock(opts.LogDir())
	if err == nil {
		defer lock.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("broker: %w", err)
	}
	err = mmapfile.MoveAll(opts.FS, opts.Dir, to, "consumequeue", "keyindex", filepath.Base(opts.stateDir()), filepath.Base(opts.LogDir()))
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

// LogDir is where the log is.
func (o *Options) LogDir() string { return filepath.Join(o.Dir, "commitlog") }

func (o *Options) stateDir() string { return filepath.Join(o.Dir, "state") }

func (o *Options) logOptions() commitlog.Options {
	return commitlog.Options{
		Dir:         o.LogDir(),
		FS:          o.FS,
		SegmentSize: o.SegmentSize,
		Durability:  o.Durability,
		MaxMapped:   o.MaxMapped,
		Retention:   commitlog.Retention{Age: o.RetentionAge, Size: o.RetentionSize},
		Logger:      o.Logger.With(logging.Component, "commitlog"),
	}
}

// Lead makes a follower the leader of t, when it has applied all that is committed.
// Calls of clients may come when it has returned. It is called once.
func (b *Broker) Lead(ctx context.Context, t Term) error {
	if err := b.dispatcher.Await(ctx, b.wal.Committed()); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	b.clock.Reach(b.wal.Time())
	b.append, b.term = t, t
	t.Begin(b.clock.Now, b.sequence.stamp)
	return b.lead()
}

// over reports whether the term that b led is. What fails then fails because of it.
func (b *Broker) over() bool {
	if b.term == nil {
		return false
	}
	select {
	case <-b.term.Over():
		return true
	default:
		return false
	}
}

// ending reports whether what fails now fails because the broker closes, or is about
// to: that is nobody's trouble.
func (b *Broker) ending() bool { return b.ctx.Err() != nil || b.over() }

// follow starts what a broker does whether it leads or not.
func (b *Broker) follow() {
	b.run.Go(func() {
		if err := b.dispatcher.Run(b.ctx); err != nil {
			b.fatal(err)
		}
	})
	b.run.Go(b.boundResident)
	b.run.Go(b.checkpt.run)
	b.run.Go(func() {
		b.wal.Scrub(b.ctx, b.opts.ScrubRate, func(err *commitlog.CorruptError) { b.foundDamage(err) })
	})
	if b.opts.Log != nil {
		b.run.Go(b.followRetention)
	}
	if b.opts.DiskFree != nil && b.opts.DiskReserve > 0 {
		b.run.Go(b.watchDisk)
	}
}

// lead starts what only the one does that serves.
func (b *Broker) lead() error {
	b.led = time.Now()
	b.live.Store(true)
	b.firstLease = b.inflight.LeaseIDs(1, b.now())
	b.run.Go(func() { b.inflight.Run(b.ctx, b.now) })
	b.run.Go(func() { b.sessions.Run(b.ctx) })
	b.run.Go(b.housekeep)
	b.run.Go(b.checkBack)
	b.run.Go(b.fireTimers)
	if b.handles.Load() == nil {
		return b.createIdentity()
	}
	return nil
}
