package replica

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// fsm is raft's state machine: the log's committed watermark.
type fsm struct {
	log   *commitlog.Log
	fatal func(error)
}

// placed is where the frame of an entry is: what Apply returns.
type placed struct {
	start, end record.Position
	err        error
}

func (f *fsm) Apply(l *raft.Log) any {
	start, end, err := f.log.Commit(l.Index)
	if err != nil {
		f.fatal(err)
	}
	return placed{start, end, err}
}

// Snapshot returns a snapshot without content: what it stands for is in the log
// and in the broker's checkpoints.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }

// Remember makes the membership independent of all entries that are applied here. It
// comes before any of them is dropped: raft reads those behind its newest snapshot
// when it starts, and takes a missing one for the end of the world.
func (n *Node) Remember() error {
	err := n.ask(func() raft.Future { return n.raft.Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

type nothing struct{}

func (nothing) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (nothing) Release()                             {}

// ErrBehind: this node lacks entries that no other node has any more.
var ErrBehind = errors.New("replica: this node is behind what retention has left on the leader: remove it from the cluster, empty its data directory, and have it join again")

// Restore is asked for when the leader has not got the next entry any more.
func (f *fsm) Restore(r io.ReadCloser) error {
	r.Close()
	f.fatal(ErrBehind)
	return ErrBehind
}
