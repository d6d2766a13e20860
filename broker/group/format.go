package group

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A group, in group-put records and in snapshots:
//
//	id uvarint | namespace string | name string | flags 1 | max attempts uvarint
//	| steps: count uvarint, each varint ns | initial varint ns | max varint ns
//	| multiplier uvarint (bits of a float64) | lite topic string | created varint (Unix ms)
//	| lite quota uvarint, with its flag
const (
	flagFIFO = 1 << iota
	flagLiteExclusive
	flagLiteShared
	flagLiteResetTaken
	flagLiteResetLeft
	flagLiteQuota
	flagPaused
)

func appendGroup(dst []byte, g Group) []byte {
	dst = appendUvarint(dst, uint64(g.ID))
	dst = record.AppendResource(dst, g.Name)
	flags := byte(0)
	for flag, on := range map[byte]bool{
		flagFIFO: g.FIFO, flagLiteExclusive: g.Lite.Exclusive, flagLiteShared: g.Lite.Shared,
		flagLiteResetTaken: g.Lite.ResetTaken, flagLiteResetLeft: g.Lite.ResetLeft, flagLiteQuota: g.Lite.Quota != 0,
		flagPaused: g.Paused,
	} {
		if on {
			flags |= flag
		}
	}
	dst = append(dst, flags)
	dst = appendUvarint(dst, uint64(g.MaxAttempts))
	dst = appendUvarint(dst, uint64(len(g.Retry.Steps)))
	for _, s := range g.Retry.Steps {
		dst = binary.AppendVarint(dst, int64(s))
	}
	dst = binary.AppendVarint(dst, int64(g.Retry.Initial))
	dst = binary.AppendVarint(dst, int64(g.Retry.Max))
	dst = appendUvarint(dst, math.Float64bits(g.Retry.Multiplier))
	dst = record.AppendString(dst, g.LiteTopic)
	dst = binary.AppendVarint(dst, g.Created)
	if g.Lite.Quota != 0 {
		dst = appendUvarint(dst, uint64(g.Lite.Quota))
	}
	return dst
}

func readGroup(d *record.Decoder) Group {
	g := Group{ID: record.GroupID(d.Uint32()), Name: d.Resource()}
	flags := d.Byte()
	g.FIFO, g.Paused = flags&flagFIFO != 0, flags&flagPaused != 0
	g.Lite = Lite{
		Exclusive: flags&flagLiteExclusive != 0, Shared: flags&flagLiteShared != 0,
		ResetTaken: flags&flagLiteResetTaken != 0, ResetLeft: flags&flagLiteResetLeft != 0,
	}
	g.MaxAttempts = int32(d.Uint32())
	for n := d.Count(1); n > 0 && !d.Failed(); n-- {
		g.Retry.Steps = append(g.Retry.Steps, time.Duration(d.Varint()))
	}
	g.Retry.Initial = time.Duration(d.Varint())
	g.Retry.Max = time.Duration(d.Varint())
	g.Retry.Multiplier = math.Float64frombits(d.Uvarint())
	g.LiteTopic = d.String()
	g.Created = d.Varint()
	if flags&flagLiteQuota != 0 {
		g.Lite.Quota = d.Uint32()
	}
	return g
}

// AppendPut encodes the record that creates g, or replaces the one with its id.
func AppendPut(dst []byte, g Group) []byte {
	dst, start := record.BeginCommand(dst, record.KindGroupPut)
	return record.EndCommand(appendGroup(dst, g), start)
}

// AppendDelete encodes the record that deletes a group.
func AppendDelete(dst []byte, id record.GroupID) []byte {
	dst, start := record.BeginCommand(dst, record.KindGroupDelete)
	return record.EndCommand(appendUvarint(dst, uint64(id)), start)
}

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// Delay is how long a message waits after its attempt-th delivery failed
// (attempt >= 1), when the server decides.
func (r Retry) Delay(attempt int32) time.Duration {
	attempt = max(attempt, 1)
	if len(r.Steps) > 0 {
		return r.Steps[min(int(attempt), len(r.Steps))-1]
	}
	d := float64(r.Initial) * math.Pow(max(r.Multiplier, 1), float64(min(attempt-1, 64)))
	if r.Max > 0 && d > float64(r.Max) {
		return r.Max
	}
	return time.Duration(d)
}
