package consumequeue

import (
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestReadersOfAnEntryThatIsReplacedSeeOneOrTheOther(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 0)
	fill(t, s, key, 0, 8)
	old := entryAt(3)
	marked := old
	marked.Flags = FlagRedriven
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			var e [1]Entry
			for {
				select {
				case <-done:
					return
				default:
				}
				if n, err := s.Read(key, 3, e[:]); err != nil || n != 1 || e[0] != old && e[0] != marked {
					t.Errorf("read %+v, %v", e[0], err)
					return
				}
				if err := s.ReadEach(key, []record.QueueOffset{3}, e[:]); err != nil || e[0] != old && e[0] != marked {
					t.Errorf("read %+v, %v", e[0], err)
					return
				}
			}
		})
	}
	for range 20_000 {
		for _, e := range []Entry{marked, old} {
			if err := s.Put(key, 3, e); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	readers.Wait()
	checkRange(t, s, key, 0, 8)
}
