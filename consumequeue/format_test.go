package consumequeue

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestEntrySurvivesEncoding(t *testing.T) {
	for name, e := range map[string]Entry{
		"smallest": {Size: 1},
		"typical":  {Position: 123456789, Size: 1024, TagHash: 0xdeadbeef, GroupHash: 7, StoreTime: 1763800000000},
		"indirect": {Position: 1, Size: 80, Flags: FlagIndirect},
		"largest": {Position: math.MaxUint64, Size: math.MaxUint32, Flags: math.MaxUint16,
			TagHash: math.MaxUint32, GroupHash: math.MaxUint32, StoreTime: math.MaxInt64},
		"before 1970": {Size: 1, StoreTime: -1},
	} {
		var b, c sealed
		var got Entry
		b.encode(record.Key(3, 4), 5, &e)
		if !c.decode(record.Key(3, 4), 5, b[:entryLen], &got) || got != e {
			t.Errorf("%s: got %+v, want %+v", name, got, e)
		}
	}
}

func TestEveryFlippedBitOfAnEntryIsDetected(t *testing.T) {
	e := Entry{Position: 1 << 40, Size: 300, Flags: FlagIndirect, TagHash: 1, GroupHash: 2, StoreTime: 3}
	key, off := record.Key(11, 12), record.QueueOffset(13)
	var b, c sealed
	b.encode(key, off, &e)
	for bit := range entryLen * 8 {
		d := bytes.Clone(b[:entryLen])
		d[bit/8] ^= 1 << (bit % 8)
		if c.decode(key, off, d, &e) {
			t.Errorf("bit %d flipped: not detected", bit)
		}
	}
	for bit := range 64 {
		if c.decode(key^1<<bit, off, b[:entryLen], &e) {
			t.Errorf("accepted for a key that differs in bit %d", bit)
		}
		if c.decode(key, off^1<<bit, b[:entryLen], &e) {
			t.Errorf("accepted for an offset that differs in bit %d", bit)
		}
	}
}

func TestZeroesAreNoEntry(t *testing.T) {
	var c sealed
	var e Entry
	zero := make([]byte, entryLen)
	for off := range record.QueueOffset(1 << 18) { // check is 0 for some of them
		if c.decode(1, off, zero, &e) {
			t.Fatalf("zeroes accepted at offset %d", off)
		}
	}
}

func TestEveryFlippedBitOfAnArenaHeaderIsDetected(t *testing.T) {
	name := arenaName{7, 0x0123456789abcdef}
	b := make([]byte, arenaHeaderLen)
	encodeArenaHeader(b, name, 64<<20, 100)
	if err := checkArenaHeader(b, name, 64<<20, 100); err != nil {
		t.Fatal(err)
	}
	for bit := range len(b) * 8 {
		d := bytes.Clone(b)
		d[bit/8] ^= 1 << (bit % 8)
		if checkArenaHeader(d, name, 64<<20, 100) == nil {
			t.Errorf("bit %d flipped: not detected", bit)
		}
	}
	for what, n := range map[string]arenaName{"id": {8, name.nonce}, "nonce": {7, 1}} {
		if checkArenaHeader(b, n, 64<<20, 100) == nil {
			t.Errorf("accepted with another %s", what)
		}
	}
}

// sampleImage has one queue of each shape.
func sampleImage() *image {
	mk := func(key record.QueueKey, lo, hi int64, low record.Position, exts ...extent) *queue {
		q := &queue{key: key, low: low}
		q.min.Store(lo)
		q.max.Store(hi)
		if exts != nil {
			q.publish(exts)
		}
		return q
	}
	return &image{
		pageBits: 14,
		arenas:   []arenaName{{0, 0xfeedface}, {3, math.MaxUint64}},
		queues: []*queue{
			mk(record.Key(1, 0), 0, 1, 64, extent{0, 64, 1, 0}),
			mk(record.Key(1, 1), 1000, 1000, 0),
			mk(record.Key(2, 0), 130, 128+256+1, 4096, extent{128, 5000, 2, 1}, extent{384, 900000, 3<<14 | 4, 2}),
			mk(record.Key(math.MaxUint32, math.MaxUint32), 0, 128, 9, extent{0, 3, 3<<14 | 1, 0}),
		},
	}
}

func sameImage(t *testing.T, got, want *image) {
	t.Helper()
	a, b := appendSnapshot(nil, got), appendSnapshot(nil, want)
	if !bytes.Equal(a, b) {
		t.Fatalf("got  %x\nwant %x", a, b)
	}
	for i, q := range got.queues {
		w := want.queues[i]
		if q.key != w.key || q.min.Load() != w.min.Load() || q.max.Load() != w.max.Load() || q.low != w.low || len(q.extents()) != len(w.extents()) {
			t.Fatalf("queue %v differs", w.key)
		}
		for j, x := range q.extents() {
			if x != w.extents()[j] {
				t.Fatalf("queue %v extent %d: got %+v, want %+v", w.key, j, x, w.extents()[j])
			}
		}
	}
}

func TestSnapshotSurvivesEncoding(t *testing.T) {
	prefix := []byte("before")
	b := appendSnapshot(prefix, sampleImage())
	if !bytes.HasPrefix(b, prefix) {
		t.Fatal("did not append")
	}
	img, err := decodeSnapshot(b[len(prefix):])
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, img, sampleImage())
}

func TestEveryFlippedBitOfASnapshotIsDetected(t *testing.T) {
	b := appendSnapshot(nil, sampleImage())
	for bit := range len(b) * 8 {
		d := bytes.Clone(b)
		d[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeSnapshot(d); !errors.Is(err, ErrSnapshot) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	}
	for n := range b {
		if _, err := decodeSnapshot(b[:n]); !errors.Is(err, ErrSnapshot) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// reseal gives b a good checksum, so that what a decoder is fed gets past it.
func reseal(body []byte) []byte {
	b := append([]byte(snapshotMagic), snapshotVersion)
	b = append(b, body...)
	return le.AppendUint32(b, record.CRC(b))
}

func TestSnapshotOfNonsenseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*image){
		"arenas out of order":   func(i *image) { i.arenas[0].id = 3 },
		"queues out of order":   func(i *image) { i.queues[0], i.queues[1] = i.queues[1], i.queues[0] },
		"page bits":             func(i *image) { i.pageBits = 40 },
		"arena not listed":      func(i *image) { i.queues[0].extents()[0].page = 1<<14 | 1 },
		"header page":           func(i *image) { i.queues[0].extents()[0].page = 3 << 14 },
		"extent not aligned":    func(i *image) { i.queues[2].extents()[0].page = 3 },
		"order":                 func(i *image) { i.queues[0].extents()[0].order = maxOrder + 1 },
		"min after extent":      func(i *image) { i.queues[2].min.Store(384) },
		"max after extents":     func(i *image) { i.queues[2].max.Store(384 + 512 + 1) },
		"max before the last":   func(i *image) { i.queues[2].max.Store(384) },
		"empty with extents":    func(i *image) { i.queues[0].min.Store(1) },
		"entries, no extents":   func(i *image) { i.queues[1].max.Store(1001) },
		"offset too large":      func(i *image) { i.queues[1].min.Store(maxOffset + 1); i.queues[1].max.Store(maxOffset + 1) },
		"first extent too late": func(i *image) { i.queues[2].extents()[0].base = 131 },
	} {
		img := sampleImage()
		change(img)
		if _, err := decodeSnapshot(appendSnapshot(nil, img)); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The golden bytes are what version 1 wrote when it was new. They are never
// made again: a build that cannot read them cannot read its users' disks.
func TestVersion1StaysReadable(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "v1", "snapshot.bin"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := decodeSnapshot(b)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, img, sampleImage())

	raw, err := hex.DecodeString("15cd5b07000000000004000001008ddbefbeadde070000000026acaa9a010000")
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Position: 123456789, Size: 1024, Flags: FlagIndirect, TagHash: 0xdeadbeef, GroupHash: 7, StoreTime: 1763800000000}
	var c sealed
	var got Entry
	if !c.decode(record.Key(3, 4), 5, raw, &got) || got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func FuzzEntry(f *testing.F) {
	var b sealed
	b.encode(1, 2, &Entry{Position: 3, Size: 4})
	f.Add(uint64(1), int64(2), b[:entryLen])
	f.Add(uint64(0), int64(0), make([]byte, entryLen))
	f.Fuzz(func(t *testing.T, key uint64, off int64, src []byte) {
		if len(src) < entryLen {
			return
		}
		src = src[:entryLen]
		var c, d sealed
		var e Entry
		if !c.decode(record.QueueKey(key), record.QueueOffset(off), src, &e) {
			return
		}
		d.encode(record.QueueKey(key), record.QueueOffset(off), &e)
		if !bytes.Equal(d[:entryLen], src) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", src, e, d[:entryLen])
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	b := appendSnapshot(nil, sampleImage())
	f.Add(b[5:len(b)-4], true)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = reseal(b)
		}
		img, err := decodeSnapshot(b)
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatalf("%v is not ErrSnapshot", err)
			}
			return
		}
		for _, q := range img.queues { // every offset must have a place
			for _, off := range []int64{q.min.Load(), q.max.Load() - 1} {
				if q.min.Load() == q.max.Load() {
					continue
				}
				if x := find(q.extents(), record.QueueOffset(off)); off < int64(x.base) || off >= int64(x.end()) {
					t.Fatalf("queue %v: offset %d is not in %+v", q.key, off, x)
				}
			}
		}
		again, err := decodeSnapshot(appendSnapshot(nil, img))
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, again, img)
	})
}
