package commitlog

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

func TestWhatMayBeUnsyncedIsBoundedInBytesAndTime(t *testing.T) {
	const overlap = overlapBytes
	for name, tt := range map[string]struct {
		durability Durability
		unsynced   record.Position
		age        time.Duration
		queued     int64
		syncing    bool
		want       bool
	}{
		"sync, nothing is":                       {DurabilitySync, 0, time.Hour, 1, false, true},
		"sync, little waits for a sync":          {DurabilitySync, 100, 0, overlap - 1, true, false},
		"sync, much does":                        {DurabilitySync, 100, 0, overlap, true, true},
		"sync, nearly at the limit":              {DurabilitySync, maxUnsynced - 1, 0, overlap, true, true},
		"sync, at the limit":                     {DurabilitySync, maxUnsynced, 0, overlap, true, false},
		"async, nothing is":                      {DurabilityUnsafeAsync, 0, time.Hour, 1, false, true},
		"async, little waits for no sync":        {DurabilityUnsafeAsync, 100, 0, 1, true, true},
		"async, nearly at the limit":             {DurabilityUnsafeAsync, asyncUnsynced - 1, 0, 1, true, true},
		"async, at the limit":                    {DurabilityUnsafeAsync, asyncUnsynced, 0, overlap, true, false},
		"async, one byte, for 0.9 seconds":       {DurabilityUnsafeAsync, 1, 900 * time.Millisecond, 1, true, true},
		"async, one byte, for a second":          {DurabilityUnsafeAsync, 1, time.Second, 1, true, false},
		"async, for a second, though much waits": {DurabilityUnsafeAsync, 1, time.Second, overlap, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &Log{opt: Options{Durability: tt.durability, SyncEvery: 200 * time.Millisecond}, syncing: tt.syncing, queueBytes: tt.queued}
				l.durable.pos = 4096
				l.pendingTail.pos = 4096 + tt.unsynced
				l.unsyncedSince = time.Now()
				time.Sleep(tt.age)
				if got := l.mayWrite(); got != tt.want {
					t.Errorf("may be written: %v", got)
				}
			})
		})
	}
}

// stuckDisk is a file system whose syncs, once it is stuck, wait for the gate.
type stuckDisk struct {
	*crashtest.FS
	stuck atomic.Bool
	gate  chan struct{}
}

type stuckFile struct {
	mmapfile.File
	disk *stuckDisk
}

func (d *stuckDisk) Create(name string, size int64) (mmapfile.File, error) {
	f, err := d.FS.Create(name, size)
	return stuckFile{f, d}, err
}

func (f stuckFile) Datasync() error {
	if f.disk.stuck.Load() {
		<-f.disk.gate
	}
	return f.File.Datasync()
}

func TestWhoSendsWithoutFsyncWaitsForADiskThatIsASecondBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &stuckDisk{FS: crashtest.New(), gate: make(chan struct{})}
		opt := crashOptions(disk.FS, DurabilityUnsafeAsync)
		opt.FS, opt.SyncEvery = disk, 200*time.Millisecond
		l, err := Open(opt)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		submit := func() *Batch {
			var b Batch
			b.Add(makeRecord(1, 100))
			if err := l.Submit(&b); err != nil {
				t.Fatal(err)
			}
			return &b
		}
		disk.stuck.Store(true)
		for range 10 { // from 0 to 0.9 s
			if err := submit().Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		late := submit()
		time.Sleep(time.Minute)
		select {
		case <-late.done:
			t.Error("acknowledged while nothing of the last minute was synced")
		default:
		}
		disk.stuck.Store(false)
		close(disk.gate)
		if err := late.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestWhoIsReadyToAppendSharesAWrite has one processor, so that the one who appends
// first cannot know of the others but by letting them run.
func TestWhoIsReadyToAppendSharesAWrite(t *testing.T) {
	l := openTest(t, Options{Durability: DurabilityUnsafeAsync})
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const appends = 100
	var done sync.WaitGroup
	for i := range uint64(appends) {
		done.Go(func() {
			var b Batch
			b.Add(makeRecord(i, 100))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if s := l.Stats(); s.Groups > appends/4 {
		t.Errorf("%d writes for %d appends", s.Groups, appends)
	}
}
