package api

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/stream"
)

func TestRecordsCutAnywhereComeInPiecesOfWholeOnes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var records []byte
		for range 1 + r.IntN(20) {
			b, start := record.BeginMessage(records)
			records = record.EndMessage(b, start, &record.Message{Kind: record.KindMessage, Body: make([]byte, 1+r.IntN(200))})
		}
		pieces := cutAnywhere(r, records)
		held := new(stream.Held)
		whole := wholeRecords(pieces, held)
		if !bytes.Equal(bytes.Join(whole, nil), records) {
			t.Fatalf("other bytes than came, in %d pieces", len(pieces))
		}
		for _, p := range whole {
			for len(p) > 0 {
				var err error
				if _, p, err = record.CutMessage(p); err != nil {
					t.Fatalf("a record is cut: %v, in %d pieces", err, len(pieces))
				}
			}
		}
		held.Release()
	}
}

func TestWhatHasNotTheShapeOfRecordsComesInOnePiece(t *testing.T) {
	b, start := record.BeginMessage(nil)
	good := record.EndMessage(b, start, &record.Message{Kind: record.KindMessage, Body: make([]byte, 100)})
	sized := func(n uint32) []byte { return append(binary.LittleEndian.AppendUint32(nil, n), make([]byte, 12)...) }
	for name, bad := range map[string][]byte{
		"cut short":                      good[:len(good)-8],
		"behind a good one":              append(bytes.Clone(good), 1, 2, 3),
		"size 0":                         sized(0),
		"size 0 behind a good one":       append(bytes.Clone(good), sized(0)...),
		"larger than all there is":       sized(1 << 31),
		"the largest number":             sized(1<<32 - 1),
		"shorter than the word for size": {1, 0},
	} {
		for at := range len(bad) {
			held := new(stream.Held)
			if got := wholeRecords([][]byte{bad[:at:at], bad[at:]}, held); len(got) != 1 || !bytes.Equal(got[0], bad) {
				t.Errorf("%s, cut at %d: %d pieces", name, at, len(got))
			}
			held.Release()
		}
	}
}

// cutAnywhere copies b into pieces, some of them empty.
func cutAnywhere(r *rand.Rand, b []byte) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(r.IntN(300), len(b))
		pieces = append(pieces, bytes.Clone(b[:n]))
		b = b[n:]
	}
	return append(pieces, nil)
}
