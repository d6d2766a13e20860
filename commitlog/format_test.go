package commitlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var (
	someSegment  = segmentHeader{Cluster: 7, Group: 8, Base: 1 << 33, BaseIndex: 99, Nonce: 0x1122_3344_5566_7788, Size: 1 << 20, PrevTime: 1_700_000_000_000_000_000, PrevChain: 0xdead_beef}
	someFrame    = frameHeader{Index: 100, Term: 3, Hint: 98, Length: 64, PayloadCRC: 0x0102_0304, Chain: 0x0506_0708, Type: FrameRecords, Time: 1_700_000_000_000_000_001}
	someManifest = manifest{Seq: 5, Checkpoint: tail{pos: 1 << 34, index: 77, time: 123, chain: 9}}
)

const someNonce = 0xaabb_ccdd_0011_2233

func encodedFrame(h frameHeader) []byte {
	b := make([]byte, frameHeaderLen)
	h.encode(b, someNonce)
	return b
}

// These bytes are in files of users. A change of them is a new version.
func TestFormatVersion1IsWhatItWas(t *testing.T) {
	for name, tt := range map[string]struct {
		got  []byte
		want string
	}{
		"segment":  {someSegment.encode()[:80], "474e54525953454701000000a1ee0f6507000000000000000800000000000000000000000200000063000000000000008877665544332211000010000000000000002a36fe9c9717efbeadde00000000"},
		"frame":    {encodedFrame(someFrame), "6164404d5c1ef9386400000000000000030000000000000062000000000000004000000004030201080706050100000001002a36fe9c97170000000000000000"},
		"manifest": {someManifest.encode()[:56], "474e5452594d414e01000000258cf8cc050000000000000000000000040000004d000000000000007b000000000000000900000000000000"},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tt.want)
		}
	}
}

func TestTheChainIsTheChecksumOfAllFramesSoFar(t *testing.T) {
	var all []byte
	chain := uint32(0)
	for i := range uint64(5) {
		index, term, crc := i<<40+1, i*77, uint32(i*123456789)
		all = le.AppendUint64(all, index)
		all = le.AppendUint64(all, term)
		all = le.AppendUint32(all, crc)
		if chain = nextChain(chain, index, term, crc); chain != record.CRC(all) {
			t.Fatalf("frame %d: %#x, want %#x", i, chain, record.CRC(all))
		}
	}
}

func TestHeadersSurviveTheRoundTrip(t *testing.T) {
	if got, err := decodeSegmentHeader(someSegment.encode()); err != nil || got != someSegment {
		t.Errorf("segment: %+v, %v", got, err)
	}
	if got, err := decodeFrameHeader(encodedFrame(someFrame), someNonce, 128); err != nil || got != someFrame {
		t.Errorf("frame: %+v, %v", got, err)
	}
	if got, err := decodeManifest(someManifest.encode()); err != nil || got != someManifest {
		t.Errorf("manifest: %+v, %v", got, err)
	}
	for _, base := range []record.Position{0, 1 << 30, 1<<64 - 1} {
		if got, ok := parseSegmentName(segmentName(base)); !ok || got != base {
			t.Errorf("name of %d: %d, %v", base, got, ok)
		}
	}
	for _, name := range []string{"", ".log", "0.log", "0000000000000000000x.log", "00000000000000000000.tmp", "99999999999999999999.log", "-0000000000000000001.log"} {
		if got, ok := parseSegmentName(name); ok {
			t.Errorf("%q is taken for segment %d", name, got)
		}
	}
}

// decoders of the three headers over the same kind of bytes.
var decoders = map[string]struct {
	good   []byte
	decode func([]byte) error
}{
	"segment":  {someSegment.encode(), func(b []byte) error { _, err := decodeSegmentHeader(b); return err }},
	"frame":    {encodedFrame(someFrame), func(b []byte) error { _, err := decodeFrameHeader(b, someNonce, 128); return err }},
	"manifest": {someManifest.encode(), func(b []byte) error { _, err := decodeManifest(b); return err }},
}

func TestEverySingleBitFlipAndEveryCutIsDetected(t *testing.T) {
	for name, d := range decoders {
		if err := d.decode(d.good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for bit := range 8 * len(d.good) {
			b := bytes.Clone(d.good)
			b[bit/8] ^= 1 << (bit % 8)
			if d.decode(b) == nil {
				t.Errorf("%s: flip of bit %d is not detected", name, bit)
			}
		}
		for n := range len(d.good) {
			if d.decode(d.good[:n]) == nil {
				t.Errorf("%s: cut to %d bytes is not detected", name, n)
			}
		}
	}
}

func TestMagicVersionAndChecksumAreDifferentErrors(t *testing.T) {
	for name, d := range decoders {
		for _, tt := range []struct {
			off  int
			want error
		}{{0, ErrMagic}, {8, ErrVersion}, {12, ErrChecksum}, {40, ErrChecksum}} {
			if name == "frame" && tt.want == ErrVersion {
				continue // a frame's version is its segment's
			}
			b := bytes.Clone(d.good)
			b[tt.off] ^= 0x80
			if err := d.decode(b); !errors.Is(err, tt.want) {
				t.Errorf("%s, byte %d: %v, want %v", name, tt.off, err, tt.want)
			}
		}
	}
}

func TestImpossibleHeadersAreRefusedThoughTheirChecksumIsRight(t *testing.T) {
	for name, change := range map[string]func(*frameHeader){
		"type 0":                   func(h *frameHeader) { h.Type = 0 },
		"unknown type":             func(h *frameHeader) { h.Type = 9 },
		"flags of records":         func(h *frameHeader) { h.Flags = 1 },
		"unknown flags":            func(h *frameHeader) { h.Type, h.Flags = FrameBarrier, 8 },
		"more padding than bytes":  func(h *frameHeader) { h.Type, h.Length, h.Flags = FrameBarrier, 0, 1 },
		"extensions":               func(h *frameHeader) { h.Extensions = 1 },
		"length beyond the room":   func(h *frameHeader) { h.Length = 72 },
		"huge length":              func(h *frameHeader) { h.Length = 1<<32 - 8 },
		"length not aligned":       func(h *frameHeader) { h.Length = 63 },
		"segment end with payload": func(h *frameHeader) { h.Type = segmentEnd },
	} {
		h := someFrame
		change(&h)
		if got, err := decodeFrameHeader(encodedFrame(h), someNonce, 128); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := decodeFrameHeader(encodedFrame(someFrame), someNonce+1, 128); !errors.Is(err, ErrMagic) {
		t.Errorf("frame of an earlier life of the file: %v", err)
	}
	if _, err := decodeFrameHeader(make([]byte, frameHeaderLen), someNonce, 128); err == nil {
		t.Error("zeroes are a frame")
	}
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(encodedFrame(someFrame), uint64(someNonce), int64(128))
	f.Add(make([]byte, frameHeaderLen), uint64(0), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, nonce uint64, room int64) {
		h, err := decodeFrameHeader(b, nonce, room)
		if err != nil {
			return
		}
		if h.size() > room {
			t.Fatalf("frame of %d bytes in %d", h.size(), room)
		}
		again := make([]byte, frameHeaderLen)
		if h.encode(again, nonce); !bytes.Equal(again, b[:frameHeaderLen]) {
			t.Fatalf("%+v is encoded otherwise", h)
		}
	})
}

func FuzzSegmentHeader(f *testing.F) {
	f.Add(someSegment.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeSegmentHeader(b); err == nil {
			if again, err := decodeSegmentHeader(h.encode()); err != nil || again != h {
				t.Fatalf("%+v, then %+v, %v", h, again, err)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(someManifest.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeManifest(b); err == nil {
			if again, err := decodeManifest(m.encode()); err != nil || again != m {
				t.Fatalf("%+v, then %+v, %v", m, again, err)
			}
		}
	})
}
