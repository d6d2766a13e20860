package stable

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// killedAfter ends before the Set of another candidate: raft uses Set for nothing
// else.
type killedAfter struct {
	raft.StableStore
	candidates int
}

func (k *killedAfter) Set(key, value []byte) error {
	if k.candidates--; k.candidates < 0 {
		return io.ErrClosedPipe
	}
	return k.StableStore.Set(key, value)
}

// hashicorp/raft#661, with the real library: node v voted for x in term 2, and is
// killed in term 3 between the two Sets of its vote for y. x, whose log is behind
// that of v, then asks for a vote in term 3. With the library's own store v repeats
// "its vote" for x without looking at x's log, and an entry that v acknowledged may
// be lost; with ours there is no vote to repeat.
func TestAVoteCutInHalfIsNotAVoteForTheCandidateBefore(t *testing.T) {
	for what, c := range map[string]struct {
		store   func(t *testing.T) (raft.StableStore, func() raft.StableStore)
		granted bool
	}{
		"raft's store in memory": {func(t *testing.T) (raft.StableStore, func() raft.StableStore) {
			s := raft.NewInmemStore()
			return s, func() raft.StableStore { return s }
		}, true},
		"ours": {func(t *testing.T) (raft.StableStore, func() raft.StableStore) {
			fsys := newFS(t)
			return must(Create(fsys, name))(t), func() raft.StableStore {
				return must(Open(fsys.Crash(crashtest.None, newRNG(t)), name, quiet))(t)
			}
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			store, reopen := c.store(t)
			logs := raft.NewInmemStore()
			voters := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "v", Address: "v"}, {ID: "x", Address: "x"}, {ID: "y", Address: "y"}}})
			if err := logs.StoreLogs([]*raft.Log{
				{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: voters},
				{Index: 2, Term: 1}, {Index: 3, Term: 1},
			}); err != nil {
				t.Fatal(err)
			}
			cut := &killedAfter{StableStore: store, candidates: 1}
			if !askForVote(t, logs, cut, "x", 2, 3) {
				t.Fatal("no vote in term 2")
			}
			if askForVote(t, logs, cut, "y", 3, 3) {
				t.Fatal("a vote that was not stored was given")
			}
			again := reopen()
			if got := askForVote(t, logs, again, "x", 3, 2); got != c.granted {
				t.Errorf("a candidate with a shorter log: granted %v, want %v", got, c.granted)
			}
			if c.granted {
				return
			}
			if !askForVote(t, logs, again, "y", 3, 3) {
				t.Error("the candidate whose vote was cut in half gets none any more")
			}
			if askForVote(t, logs, again, "x", 3, 9) {
				t.Error("two votes in a term")
			}
		})
	}
}

// askForVote starts node v on the stores, has candidate ask it for its vote, and
// stops it.
func askForVote(t *testing.T, logs raft.LogStore, store raft.StableStore, candidate string, term, lastIndex uint64) bool {
	t.Helper()
	conf := raft.DefaultConfig()
	conf.LocalID = "v"
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout = time.Hour, time.Hour // v stands for no election itself
	_, trans := raft.NewInmemTransport("v")
	r, err := raft.NewRaft(conf, &raft.MockFSM{}, logs, store, raft.NewInmemSnapshotStore(), trans)
	if err != nil {
		t.Fatal(err)
	}
	_, from := raft.NewInmemTransport(raft.ServerAddress(candidate))
	from.Connect("v", trans)
	var resp raft.RequestVoteResponse
	err = from.RequestVote("v", "v", &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate), Addr: []byte(candidate)},
		Term:      term, LastLogIndex: lastIndex, LastLogTerm: 1,
	}, &resp)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	return resp.Granted
}
