package commitlog

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestAReaderThatFollowsFindsTheSameFramesAndTheNotesOfNewOnes(t *testing.T) {
	ctx := t.Context()
	for _, behind := range []int{0, 1, maxLive - 1, maxLive + 3} {
		t.Run(fmt.Sprint(behind, " behind"), func(t *testing.T) {
			l := openTest(t, Options{SegmentSize: minSegmentSize, Durability: DurabilityUnsafeAsync})
			appended := uint64(0)
			notes := map[record.Position]uint64{}
			add := func() {
				head, body := makeRecord(appended, 40)
				var b Batch
				b.Add(head, body)
				if appended%2 == 0 {
					b.AddPack(append(head, body...), appended)
				}
				if err := l.Append(ctx, &b); err != nil {
					t.Fatal(err)
				}
				if b.Len() == 2 {
					notes[b.Position(1)] = appended
				}
				appended++
			}
			add() // before anybody follows
			follower, reader := l.Follow(l.First()), l.Reader(l.First())
			noted := 0
			for range 300 { // over many segments
				for range behind + 1 {
					add()
				}
				for reader.Position() < l.Committed() {
					f, err := follower.Next(ctx)
					if err != nil {
						t.Fatal(err)
					}
					want, err := reader.Next(ctx)
					if err != nil {
						t.Fatal(err)
					}
					if f.Position != want.Position || f.End != want.End || f.Index != want.Index || f.Term != want.Term ||
						f.Time != want.Time || !bytes.Equal(f.Payload, want.Payload) || len(want.Notes) > 0 {
						t.Fatalf("got %+v, want %+v", f, want)
					}
					for _, n := range f.Notes {
						i := n.Value.(uint64)
						head, body := makeRecord(i, 40)
						if notes[f.Base()+record.Position(n.Off)] != i || !bytes.Equal(f.Payload[n.Off:n.Off+n.Len], append(head, body...)) {
							t.Fatalf("note %+v of the frame at %d", n, f.Position)
						}
						noted++
					}
					f.Release()
					want.Release()
				}
				if behind >= maxLive-1 && appended > 3*maxLive {
					break
				}
			}
			if noted == 0 || behind < maxLive && noted != len(notes)-1 {
				t.Errorf("%d notes of %d", noted, len(notes))
			}
		})
	}
}
