package commitlog

import (
	"fmt"
	"sync"
	"time"
)

// asyncBytes is how much may be unsynced in DurabilityUnsafeAsync before a sync
// starts ahead of time: less towards the end of a segment, down to asyncLeast,
// because nothing is written while the rest of it is synced (see roll).
const (
	asyncBytes = 64 << 20
	asyncLeast = 4 << 20
)

// runSyncer makes what is written durable. In DurabilitySync it syncs whenever
// something is pending; in DurabilityUnsafeAsync every SyncEvery or asyncBytes.
// One sync covers everything written before it started, however many groups.
func (l *Log) runSyncer() {
	defer close(l.syncDone)
	if l.opt.Durability != DurabilitySync {
		stop := l.tick()
		defer stop()
	}
	for {
		l.mu.Lock()
		for l.err == nil && !l.drained && !l.syncDue() {
			l.wakeSync.Wait()
		}
		if l.err != nil || l.pendingTail.pos == l.durable.pos {
			l.mu.Unlock()
			return
		}
		batches, end, seg, cuts := l.pending, l.pendingTail, l.pendingSeg, l.cuts
		l.pending, l.pendingSpare = l.pendingSpare, nil
		l.syncing, l.tickDue = true, false
		began := time.Now()
		// Held while mu says that seg is not durable yet: retention cannot have
		// closed it.
		seg.hold()
		l.mu.Unlock()

		err := l.datasync(seg)
		seg.drop()
		if err != nil {
			l.fail(err)
			err = l.failure()
			for _, b := range batches {
				b.finish(err)
			}
			return
		}
		// First the writer, so that it fills the next group while callers wake.
		l.mu.Lock()
		l.syncing = false
		if l.cuts == cuts { // or end may have been taken back, and something else be there
			l.durable, l.unsyncedSince = end, began
			l.durableIndex.Store(end.index)
		}
		l.wakeWrite.Signal()
		l.wakeDurable.Broadcast()
		l.mu.Unlock()
		if l.opt.Durability == DurabilitySync {
			l.commit(end, batches)
		}
		clear(batches)
		l.mu.Lock()
		l.pendingSpare = batches[:0]
		l.mu.Unlock()
	}
}

// Sync returns when everything that was written before the call is durable: what
// a checkpoint that names a position must wait for in DurabilityUnsafeAsync.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for until := l.pendingTail.pos; l.durable.pos < until; {
		if l.err != nil {
			return l.err
		}
		l.tickDue = true
		l.wakeSync.Signal()
		l.wakeDurable.Wait()
	}
	return l.err
}

// syncDue needs mu.
func (l *Log) syncDue() bool {
	if l.opt.Durability == DurabilitySync {
		return len(l.pending) > 0
	}
	unsynced := l.pendingTail.pos - l.durable.pos
	left := l.pendingSeg.end() - l.pendingTail.pos
	return unsynced >= min(asyncBytes, max(left/4, asyncLeast)) || unsynced > 0 && l.tickDue
}

// tick has a sync due every SyncEvery until stop is called.
func (l *Log) tick() (stop func()) {
	ticker := time.NewTicker(l.opt.SyncEvery)
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ticker.C:
				l.mu.Lock()
				l.tickDue = true
				l.wakeSync.Signal()
				l.mu.Unlock()
			case <-quit:
				return
			}
		}
	})
	return func() {
		ticker.Stop()
		close(quit)
		done.Wait()
	}
}

// commit publishes end and tells readers and callers, in log order.
func (l *Log) commit(end tail, batches []*Batch) {
	l.committedIndex.Store(end.index)
	l.committed.Store(uint64(end.pos))
	l.wakeReaders()
	for _, b := range batches {
		b.finish(nil)
	}
}

// datasync is the only way the log's goroutines sync a segment. The kernel
// reports a failed write-back to a descriptor once: were two goroutines to sync
// the same file at the same time, one could get the error and the other, right
// after it, success for bytes that are lost. So the calls take turns, and after
// a failure there is no success any more. This is the one lock held during I/O;
// only these two goroutines take it, and it is contended only when a segment
// ends.
func (l *Log) datasync(s *segment) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if l.syncErr != nil {
		return l.syncErr
	}
	start := time.Now()
	if err := s.file.Datasync(); err != nil {
		l.syncErr = fmt.Errorf("commitlog: %s: %w", s.path, err)
	}
	took := int64(time.Since(start))
	l.stats.syncs.Add(1)
	l.stats.syncTime.Add(took)
	l.stats.syncLasted.Add(took/1e3, 1)
	l.stats.syncMax.Store(max(l.stats.syncMax.Load(), took))
	return l.syncErr
}
