package replica

import (
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// wire is a network in memory that has no pipeline either: see peer.Transport.
type wire struct {
	*raft.InmemTransport
	weather func(to raft.ServerAddress) weather // nil: always good
	dark    func(to raft.ServerAddress) bool    // an end of the line has no power
}

// weather is what a call meets on its way there and its answer on the way back.
type weather struct{ there, back leg }

type leg struct {
	takes time.Duration
	lost  bool
}

var errLost = errors.New("nothing came back")

func (w wire) call(to raft.ServerAddress, f func() error) error {
	var now weather
	if w.weather != nil {
		now = w.weather(to)
	}
	if time.Sleep(now.there.takes); now.there.lost || w.dark(to) {
		return errLost
	}
	err := f()
	if time.Sleep(now.back.takes); now.back.lost || w.dark(to) {
		return errLost
	}
	return err
}

func (w wire) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return w.call(to, func() error { return w.InmemTransport.AppendEntries(id, to, req, resp) })
}

func (w wire) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return w.call(to, func() error { return w.InmemTransport.RequestVote(id, to, req, resp) })
}

func (w wire) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return w.call(to, func() error { return w.InmemTransport.RequestPreVote(id, to, req, resp) })
}

func (w wire) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return w.call(to, func() error { return w.InmemTransport.InstallSnapshot(id, to, req, resp, data) })
}

func (w wire) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return w.call(to, func() error { return w.InmemTransport.TimeoutNow(id, to, req, resp) })
}

func (wire) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}
