package replica

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
)

// keyTerm is raft's name for the term in the stable store.
var keyTerm = []byte("CurrentTerm")

// bootstrap makes a node the first and only member of a new cluster. Its log may
// hold what was written before there was a cluster. It may be called again when it
// was interrupted, until raft has run.
func (p *parts) bootstrap(log *commitlog.Log) error {
	term, err := p.makeFirst(log)
	if err == nil && term > 0 {
		// The term is what says that there is a cluster, so it comes last.
		err = p.stable.SetUint64(keyTerm, term)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// makeFirst writes the first membership and returns its term; 0 when there is a
// cluster already.
func (p *parts) makeFirst(log *commitlog.Log) (term uint64, err error) {
	if term, err = p.stable.GetUint64(keyTerm); err != nil || term > 0 {
		return 0, err
	}
	first := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(p.id), Address: p.transport.LocalAddr()}}}
	last := log.LastIndex()
	if last == 0 {
		store := &logStore{log: log}
		return 1, store.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(first), AppendedAt: time.Now()})
	}
	e, err := log.Entry(last)
	if err != nil {
		return 0, err
	}
	if last == 1 && e.Type == commitlog.FrameMembership {
		return e.Term, nil // of the time before
	}
	// Nobody else has a say in what is there, so all of it is committed. The membership
	// begins behind it.
	if _, _, err := log.Commit(last); err != nil {
		return 0, err
	}
	snaps, err := p.snapshots.List()
	if err != nil || len(snaps) > 0 {
		return e.Term, err
	}
	sink, err := p.snapshots.Create(1, last, e.Term, first, last, p.transport)
	if err != nil {
		return 0, err
	}
	return e.Term, sink.Close()
}
