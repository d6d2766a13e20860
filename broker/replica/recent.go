package replica

import (
	"sync"

	"github.com/hashicorp/raft"
)

// recentBytes bounds what is kept of the newest entries, beside the last one.
const recentBytes = 8 << 20

// recent is the newest entries in memory. raft reads each entry again a moment after
// it was stored, up to three times: to send it, to say what comes before the next, and
// to apply it. The memory is raft's own; nobody changes it.
type recent struct {
	mu    sync.Mutex
	logs  []raft.Log // in order, without gaps
	bytes int
}

func (r *recent) get(index uint64, out *raft.Log) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.logs) == 0 || index < r.logs[0].Index || index-r.logs[0].Index >= uint64(len(r.logs)) {
		return false
	}
	*out = r.logs[index-r.logs[0].Index]
	return true
}

func (r *recent) add(l raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, l)
	r.bytes += len(l.Data)
	drop := 0
	for ; r.bytes > recentBytes && drop < len(r.logs)-1; drop++ {
		r.bytes -= len(r.logs[drop].Data)
	}
	left := copy(r.logs, r.logs[drop:])
	clear(r.logs[left:])
	r.logs = r.logs[:left]
}

// forget is for when entries are taken back.
func (r *recent) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs, r.bytes = nil, 0
}
