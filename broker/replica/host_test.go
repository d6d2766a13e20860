package replica

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/broker/replica/stable"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// host is the machine of a node: what is there when the node is not.
type host struct {
	t      *testing.T
	name   string
	disk   atomic.Uint64 // number of its directory
	fs     *crashtest.FS
	stable *votes
	snaps  raft.SnapshotStore

	off      atomic.Bool   // what is left of the process may complain
	dark     atomic.Bool   // without power; nothing leaves it
	died     chan error    // what it said first
	patience time.Duration // Timing.Disk

	log  *commitlog.Log
	node *Node
	wire wire
	led  sync.WaitGroup
}

func newHost(t *testing.T, name string) *host {
	h := &host{t: t, name: name, died: make(chan error, 1)}
	h.replaceDisk()
	return h
}

// replaceDisk makes the host forget everything.
func (h *host) replaceDisk() {
	h.disk.Add(1)
	h.fs, h.snaps = crashtest.New(), raft.NewInmemSnapshotStore()
}

func (h *host) id() string { return peer.NewID(h.name, h.disk.Load()) }

func (h *host) fatal(err error) {
	if !h.off.Load() {
		h.t.Errorf("%s: %v", h.name, err)
	}
	select {
	case h.died <- err:
	default:
	}
}

func (h *host) options() Options {
	return Options{
		Log:    h.log,
		Timing: Timing{Heartbeat: 150 * time.Millisecond, Lease: 100 * time.Millisecond, Commit: 5 * time.Millisecond, Compare: 20 * time.Millisecond, Disk: h.patience},
		Fatal:  h.fatal,
	}
}

func (h *host) address() raft.ServerAddress {
	return raft.ServerAddress(peer.Address{Peer: h.name + ":1", Client: h.name + ":2"}.String())
}

func (h *host) openLog() *commitlog.Log {
	l, err := commitlog.Open(commitlog.Options{
		Dir: "/log", FS: h.fs, SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler), Fatal: h.fatal,
	})
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	return l
}

// votes is raft's stable store. raft panics when that fails, which ends the process; of a
// host without power nobody hears what it votes.
type votes struct {
	*stable.Store
	dark *atomic.Bool
}

func (v *votes) Set(key, value []byte) error { return v.unlessDark(v.Store.Set(key, value)) }

func (v *votes) SetUint64(key []byte, value uint64) error {
	return v.unlessDark(v.Store.SetUint64(key, value))
}

func (v *votes) unlessDark(err error) error {
	if v.dark.Load() {
		return nil
	}
	return err
}

// openStable opens raft's votes, which are on the disk too.
func (h *host) openStable() {
	const name = "/vote"
	store, err := stable.Open(h.fs, name, slog.New(slog.DiscardHandler))
	if errors.Is(err, fs.ErrNotExist) {
		store, err = stable.Create(h.fs, name)
	}
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	h.stable = &votes{store, &h.dark}
}

// forge gives a host a new disk with a log as the other, but for one entry.
func (h *host) forge(from *commitlog.Log, other uint64) {
	h.t.Helper()
	h.fs = crashtest.New()
	forged := h.openLog()
	for i := uint64(1); i <= from.Index(); i++ {
		e, err := from.Entry(i)
		if err != nil {
			h.t.Fatal(err)
		}
		if i == other {
			e.Payload[len(e.Payload)-1] ^= 1
		}
		if err := forged.Store([]commitlog.Entry{e}); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := forged.Close(); err != nil {
		h.t.Fatal(err)
	}
}
