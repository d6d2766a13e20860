package replica

import (
	"fmt"
	"slices"
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
	snaps, err := p.snapshots.List()
	if err != nil || len(snaps) > 0 {
		return e.Term, err
	}
	return e.Term, p.beginBehind(log, e, first)
}

// beginBehind has the membership begin behind the last entry of a log. Nobody else has
// a say in what is there, so all of it is committed.
func (p *parts) beginBehind(log *commitlog.Log, last commitlog.Entry, first raft.Configuration) error {
	if _, _, err := log.Commit(last.Index); err != nil {
		return err
	}
	sink, err := p.snapshots.Create(1, last.Index, last.Term, first, last.Index, p.transport)
	if err != nil {
		return err
	}
	return sink.Close()
}

// remembers sees to it that a member, which knew k last, finds who the members are:
// when its snapshot was damaged, it may be that neither another nor an entry says so. A
// node that was alone then still is, for another one would have come by an entry.
func (p *parts) remembers(log *commitlog.Log, k known) error {
	snaps, err := p.snapshots.List()
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if len(snaps) > 0 {
		return nil
	}
	var e commitlog.Entry
	for i := log.FirstIndex(); i <= log.LastIndex(); i++ {
		if e, err = log.Entry(i); err != nil {
			return fmt.Errorf("replica: %w", err)
		}
		if e.Type == commitlog.FrameMembership && has(raft.DecodeConfiguration(e.Payload), p.id) {
			return nil
		}
	}
	if len(k.Others) > 0 {
		return fmt.Errorf("%w: neither the log nor a snapshot says who the members are", ErrDamaged)
	}
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(p.id), Address: p.transport.LocalAddr()}}}
	if err := p.beginBehind(log, e, alone); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

func has(c raft.Configuration, id string) bool {
	return slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return string(s.ID) == id })
}
