package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func sample(kind Kind) Message {
	var p []byte
	p = AppendField(p, FieldMessageID, "0170C0035AC5673D2D5A0A5C1DF1390299")
	p = AppendField(p, FieldTag, "航班")
	p = AppendField(p, FieldKey, "k1")
	p = AppendField(p, FieldKey, "k 2")
	p = AppendUser(p, "price", "12")
	p = AppendUser(p, "empty", "")
	p = AppendUser(p, "long", strings.Repeat("x", 300))
	return Message{
		Kind: kind, Flags: FlagGzip | FlagPriority, Topic: 7, Queue: 1 << 20, Offset: 1 << 40, StoreTime: 1_700_000_000_123,
		BornTime: 1_700_000_000_000, DueTime: 1_800_000_000_000, Priority: -3, Properties: p, Body: []byte("body \x00\xff"),
	}
}

func encode(m *Message) []byte { return append(AppendHead(nil, m), m.Body...) }

func TestMessageRoundTrip(t *testing.T) {
	for _, kind := range []Kind{KindMessage, KindHalf, KindDelayed} {
		m := sample(kind)
		rec := encode(&m)
		if err := Verify(rec); err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.VerifyBody(); err != nil {
			t.Fatal(err)
		}
		got.bodyCRC = 0
		if fmt.Sprint(got) != fmt.Sprint(m) {
			t.Fatalf("got  %v\nwant %v", got, m)
		}
		if KeyOf(rec) != m.Key() || KindOf(rec) != kind || OffsetOf(rec) != m.Offset || BodyLen(rec) != len(m.Body) {
			t.Fatal("an accessor disagrees")
		}
	}
}

func TestStampChangesOffsetAndTimeOnly(t *testing.T) {
	m := sample(KindMessage)
	rec := encode(&m)
	Stamp(rec[:len(rec)-len(m.Body)], 5, 6)
	if err := Verify(rec); err != nil {
		t.Fatal(err)
	}
	got, _ := ParseMessage(rec)
	m.Offset, m.StoreTime = 5, 6
	got.bodyCRC = 0
	if fmt.Sprint(got) != fmt.Sprint(m) {
		t.Fatalf("got  %v\nwant %v", got, m)
	}
}

func TestMoveIsStampedLikeAMessage(t *testing.T) {
	b, start := BeginMove([]byte("before"), KindDeadLetter, Key(3, 4))
	b = EndCommand(append(b, "data"...), start)
	rec := b[start:]
	Stamp(rec, 9, 10)
	if err := Verify(rec); err != nil {
		t.Fatal(err)
	}
	data, at, err := Move(rec)
	if err != nil || string(data) != "data" || at != 10 || OffsetOf(rec) != 9 || KeyOf(rec) != Key(3, 4) {
		t.Fatalf("%q at %d, %v", data, at, err)
	}
	if _, _, err := Move(rec[:moveHeaderLen-1]); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
}

// Whatever single bit flips, the head's or the body's checksum notices, or the
// shape does.
func TestEverySingleBitFlipIsDetected(t *testing.T) {
	m := sample(KindMessage)
	command, start := BeginCommand(nil, KindAck)
	for name, rec := range map[string][]byte{
		"message": encode(&m),
		"command": EndCommand(append(command, "0123456789"...), start),
	} {
		for bit := range len(rec) * 8 {
			bad := bytes.Clone(rec)
			bad[bit/8] ^= 1 << (bit % 8)
			err := Verify(bad)
			if err == nil && KindOf(bad).IsMessage() {
				got, parseErr := ParseMessage(bad)
				if err = parseErr; err == nil {
					err = got.VerifyBody()
				}
			}
			if err == nil {
				t.Fatalf("%s: bit %d of byte %d", name, bit%8, bit/8)
			}
		}
	}
}

func TestEveryCutIsDetected(t *testing.T) {
	m := sample(KindMessage)
	rec := encode(&m)
	for n := range rec {
		if err := Verify(rec[:n]); !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestWalkVisitsRecordsAtAlignedPositions(t *testing.T) {
	var payload []byte
	var want []Position
	for i := range 5 {
		want = append(want, 1000+Position(len(payload)))
		b, start := BeginCommand(nil, KindAck)
		b = EndCommand(append(b, make([]byte, i*3)...), start)
		payload = append(payload, append(b, make([]byte, Padded(len(b))-len(b))...)...)
	}
	var got []Position
	err := Walk(payload, 1000, func(pos Position, rec []byte, kind Kind) error {
		got = append(got, pos)
		return Verify(rec)
	})
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, want %v, %v", got, want, err)
	}
	if err := Walk(payload[:len(payload)-8], 0, func(Position, []byte, Kind) error { return nil }); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
}

func TestKindsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]Kind{}
	for k, name := range kindNames {
		if other, ok := seen[name]; ok || name == "" {
			t.Errorf("kinds %d and %d are both %q", k, other, name)
		}
		seen[name] = k
	}
}

func TestNoTextHashesToNone(t *testing.T) {
	if Hash32("") == 0 || Hash32([]byte("a")) != Hash32("a") {
		t.Fatal("hash")
	}
}

// FuzzRecord feeds bytes to everything that reads records: nothing may panic,
// read past the end or allocate by a number it read.
func FuzzRecord(f *testing.F) {
	m := sample(KindMessage)
	f.Add(encode(&m))
	b, start := BeginMove(nil, KindDeadLetter, Key(3, 4))
	f.Add(EndCommand(b, start))
	f.Add(AppendResource(nil, Resource{Namespace: "n", Name: "t"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		Walk(b, 0, func(_ Position, rec []byte, kind Kind) error {
			Verify(rec)
			Move(rec)
			if tag, ok := TagOf(rec); ok {
				if m, err := ParseMessage(rec); err != nil {
					t.Fatalf("a tag %q of what is no message: %v", tag, err)
				} else if want, _ := m.Properties.Lookup(FieldTag); !bytes.Equal(tag, want) {
					t.Fatalf("tag %q, want %q", tag, want)
				}
			}
			var opened Message
			if _, err := opened.Open(b); err == nil && Verify(b) != nil {
				t.Fatal("a message with a damaged head was opened")
			}
			if m, err := ParseMessage(rec); err == nil {
				m.VerifyBody()
				m.Properties.Lookup(FieldTag)
				m.Properties.User("price")
				if size := len(rec) - len(m.Body) - len(m.Properties); size < 0 {
					t.Fatal("parts larger than the record")
				}
			}
			return nil
		})
		Properties(b).Each(func(_ Field, key, value []byte) bool {
			if len(key)+len(value) > len(b) {
				t.Fatal("fields larger than the section")
			}
			return true
		})
		d := NewDecoder(b)
		d.Resource()
		for n := d.Count(2); n > 0 && !d.Failed(); n-- {
			d.Varint()
			d.Byte()
		}
		d.Uint64()
		d.Err()
	})
}
