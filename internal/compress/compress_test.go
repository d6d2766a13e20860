package compress

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var all = []record.Flags{record.FlagGzip, record.FlagZstd, record.FlagLZ4, record.FlagS2}

// pack is Body, for gzip too.
func pack(t testing.TB, packing record.Flags, body []byte) []byte {
	t.Helper()
	if packing != record.FlagGzip {
		out, err := Body([]byte("before"), packing, body)
		if err != nil || !bytes.HasPrefix(out, []byte("before")) {
			t.Fatalf("%.6q, %v", out, err)
		}
		return out[len("before"):]
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(body)
	w.Close()
	return b.Bytes()
}

func TestEveryCodecGivesBackWhatWentIn(t *testing.T) {
	random := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for _, p := range all {
		for name, body := range map[string][]byte{
			"one byte": {7}, "text": []byte("hello hello hello hello"), "random": random,
			"the largest": bytes.Repeat([]byte("0123456789abcdef"), record.MaxBody/16),
		} {
			packed := pack(t, p, body)
			got, err := Expand(p, packed)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s of %s: %d bytes came back of %d, %v", p.PackingName(), name, len(got), len(body), err)
			}
		}
	}
}

// A bomb is refused, and refusing it takes no more memory than a good body may.
func TestABombTakesNoMemory(t *testing.T) {
	for _, p := range all {
		bomb := pack(t, p, make([]byte, 32<<20))
		Expand(p, bomb) // what is made once is there
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Expand(p, bomb)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", p.PackingName(), err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 7*record.MaxBody { // who grew as it came would take twice what comes out
			t.Errorf("%s: a bomb of %d bytes took %d", p.PackingName(), len(bomb), took)
		}
	}
}

func TestOneByteTooMuchIsTooLarge(t *testing.T) {
	for _, p := range all {
		if _, err := Expand(p, pack(t, p, make([]byte, record.MaxBody+1))); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", p.PackingName(), err)
		}
	}
}

func TestWhatIsNotOfTheCodecIsAnError(t *testing.T) {
	body := bytes.Repeat([]byte("some text, "), 1000)
	for _, p := range all {
		good := pack(t, p, body)
		bad := map[string][]byte{"nothing": {}, "cut": good[:len(good)/2], "plain": []byte("this is plain text")}
		for _, other := range all {
			if other != p {
				bad["of "+other.PackingName()] = pack(t, other, body)
			}
		}
		for name, b := range bad {
			if out, err := Expand(p, b); err == nil {
				t.Errorf("%s made %d bytes of what is %s", p.PackingName(), len(out), name)
			}
		}
		if out, err := Expand(p, pack(t, p, nil)); err == nil {
			t.Errorf("%s made %d bytes of nothing", p.PackingName(), len(out))
		}
	}
	for _, p := range []record.Flags{0, record.FlagPriority, record.FlagZstd | record.FlagS2} {
		if _, err := Expand(p, body); err == nil {
			t.Errorf("%#x was expanded", p)
		}
		if _, err := Body(nil, p, body); err == nil {
			t.Errorf("%#x was compressed", p)
		}
	}
}

// Whatever bytes say of themselves, what comes out is within the bound, and what went in
// comes out.
func FuzzExpand(f *testing.F) {
	for i, p := range all {
		f.Add(uint8(i), pack(f, p, []byte("hello hello hello hello hello")))
		f.Add(uint8(i), pack(f, p, make([]byte, record.MaxBody+1)))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		p := all[int(which)%len(all)]
		if out, err := Expand(p, b); err == nil && (len(out) == 0 || len(out) > record.MaxBody) || err != nil && out != nil {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
		if len(b) > 0 && len(b) <= record.MaxBody {
			if out, err := Expand(p, pack(t, p, b)); err != nil || !bytes.Equal(out, b) {
				t.Fatalf("%d bytes of %d came back, %v", len(out), len(b), err)
			}
		}
	})
}

func BenchmarkBody(b *testing.B) {
	for _, size := range []int{100, 512, 1 << 10, 4 << 10, 64 << 10} {
		body := orders(size)
		for _, p := range all[1:] {
			b.Run(fmt.Sprintf("%d/%s", size, p.PackingName()), func(b *testing.B) {
				var out []byte
				for b.Loop() {
					out, _ = Body(out[:0], p, body)
				}
				b.ReportMetric(float64(len(out))/float64(size), "of-size")
			})
			b.Run(fmt.Sprintf("%d/un%s", size, p.PackingName()), func(b *testing.B) {
				packed, _ := Body(nil, p, body)
				for b.Loop() {
					if _, err := Expand(p, packed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkBatch is what DESIGN.md says about whole batches: messages of 100 bytes, each
// by itself and 256 KiB of records at once.
func BenchmarkBatch(b *testing.B) {
	var bodies, batch, each []byte
	n := 0
	for ; len(batch) < 256<<10; n++ {
		body := order(n)
		bodies = append(bodies, body...)
		batch = record.AppendMessage(batch, &record.Message{Kind: record.KindMessage, BornTime: 1_700_000_000_000 + int64(n/16), Body: body})
		packed, _ := Body(nil, record.FlagZstd, body)
		each = append(each, packed[:min(len(packed), len(body))]...)
	}
	var out []byte
	for b.Loop() {
		out, _ = Body(out[:0], record.FlagZstd, batch)
	}
	b.ReportMetric(float64(len(bodies))/float64(n), "body-B/msg")
	b.ReportMetric(float64(len(batch))/float64(n), "record-B/msg")
	b.ReportMetric(float64(len(each))/float64(n), "each-B/msg")
	b.ReportMetric(float64(len(out))/float64(n), "batch-B/msg")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/msg")
}

// order is a realistic small message, some 100 bytes of JSON.
func order(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	status := []string{"paid", "placed", "shipped", "cancelled"}[r.IntN(4)]
	return fmt.Appendf(nil, `{"order":%d,"customer":"c-%06d","status":%q,"total":%d.%02d,"currency":"EUR","items":%d}`,
		10_000_000+n, r.IntN(1e6), status, r.IntN(500), r.IntN(100), 1+r.IntN(9))
}

// orders is size bytes of them.
func orders(size int) (b []byte) {
	for n := 0; len(b) < size; n++ {
		b = append(append(b, order(n)...), ',')
	}
	return b[:size]
}
