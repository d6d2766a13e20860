package record

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func packed(msgs ...Message) []byte {
	var pack []byte
	for i := range msgs {
		b, start := BeginMessage(pack)
		pack = EndMessage(append(b, msgs[i].Properties...), start, &msgs[i])
	}
	return pack
}

func TestAPackIsCutIntoItsMessages(t *testing.T) {
	first, second := sample(KindMessage), sample(KindHalf)
	second.Body = []byte("another")
	rest := packed(first, second)
	for _, want := range []Message{first, second} {
		var rec []byte
		var err error
		if rec, rest, err = CutMessage(rest); err != nil {
			t.Fatal(err)
		}
		if KeyOf(rec) != 0 || OffsetOf(rec) != 0 {
			t.Error("the sender set what is the broker's")
		}
		Place(rec, &Message{Kind: KindDelayed, Flags: FlagFIFO, Topic: 7, Queue: 8, BornTime: 4})
		SetQueue(rec, 9)
		Stamp(rec, 5, 6)
		if err := Verify(rec); err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(rec)
		if err != nil || got.VerifyBody() != nil {
			t.Fatal(err)
		}
		want.Kind, want.Flags, want.Topic, want.Queue, want.Offset, want.StoreTime, want.BornTime = KindDelayed, FlagFIFO, 7, 9, 5, 6, 4
		got.bodyCRC = 0
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes left", len(rest))
	}
}

func TestWhatIsNoMessageIsNotCut(t *testing.T) {
	good := packed(sample(KindMessage))
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	command, start := BeginCommand(nil, KindAck)
	for name, pack := range map[string][]byte{
		"nothing":           {},
		"cut":               good[:len(good)-9],
		"without padding":   good[:le.Uint32(good)],
		"a command":         EndCommand(append(command, make([]byte, 64)...), start),
		"another version":   change(func(b []byte) []byte { b[offVersion]++; return b }),
		"a short head":      change(func(b []byte) []byte { le.PutUint32(b[offHead:], 63); return b }),
		"a long head":       change(func(b []byte) []byte { le.PutUint32(b[offHead:], le.Uint32(b)+1); return b }),
		"more than MaxSize": change(func(b []byte) []byte { le.PutUint32(b, MaxSize+1); return b }),
	} {
		if _, _, err := CutMessage(pack); !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPositionIDsAreReadBackAndNothingElseIs(t *testing.T) {
	id := PositionID(0x0123456789abcdef, 1<<40+7)
	if id != "020123456789ABCDEF0000010000000007" {
		t.Fatal(id)
	}
	if store, pos, ok := ParsePositionID(id); !ok || store != 0x0123456789abcdef || pos != 1<<40+7 {
		t.Fatal(store, pos, ok)
	}
	for _, bad := range []string{"", "02", id[:33], id + "0", "01" + id[2:], "020123456789abcdef0000010000000007", id[:33] + "G"} {
		if _, _, ok := ParsePositionID(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestAnIDIsTheProducersElseFromWhereTheFirstCopyIs(t *testing.T) {
	for _, c := range []struct {
		name  string
		props []byte
		want  string
	}{
		{"given", AppendField(nil, FieldMessageID, "mine"), "mine"},
		{"not given", AppendField(nil, FieldTag, "x"), PositionID(9, 4096)},
		{"not given, copied", AppendField(nil, FieldOrigin, "\x01\x02\x00\x00\x00\x00\x00\x00"), PositionID(9, 0x201)},
	} {
		m := Message{Properties: c.props}
		if got := m.ID(9, 4096); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
