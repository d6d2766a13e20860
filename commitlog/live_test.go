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

func TestPacksThatFollowEachOtherShareANote(t *testing.T) {
	l := openTest(t, Options{Durability: DurabilityUnsafeAsync})
	r := l.Follow(l.First())
	pack := func(i uint64) []byte {
		head, body := makeRecord(i, 40)
		return append(head, body...)
	}
	var b Batch
	b.Add(makeRecord(0, 40))
	b.AddPacks([][]byte{nil, pack(1), nil, append(pack(2), pack(3)...)}, "both")
	b.AddPacks([][]byte{nil, {}}, "none")
	b.AddPacks(nil, "none")
	b.AddPacks([][]byte{pack(4)}, nil)
	b.AddPack(pack(5), "one")
	want := [][]byte{pack(0), pack(1), append(pack(2), pack(3)...), pack(4), pack(5)}
	if b.Len() != len(want) || b.Size() != len(bytes.Join(want, nil)) {
		t.Fatalf("%d records of %d bytes", b.Len(), b.Size())
	}
	if err := l.Append(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	f, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	off := 0
	for i, w := range want {
		if b.Pack(i) != (i > 0) || i > 0 && !bytes.Equal(b.Head(i), w) || b.Position(i) != f.Base()+record.Position(off) {
			t.Errorf("record %d: a pack %v, at %d", i, b.Pack(i), b.Position(i))
		}
		off += len(w)
	}
	if !bytes.Equal(f.Payload, bytes.Join(want, nil)) {
		t.Error("other bytes than were added")
	}
	got := map[any]string{}
	for _, n := range f.Notes {
		got[n.Value] = string(f.Payload[n.Off : n.Off+n.Len])
	}
	if len(got) != 2 || got["both"] != string(append(want[1], want[2]...)) || got["one"] != string(pack(5)) {
		t.Errorf("%d notes: %q", len(f.Notes), got)
	}
}
