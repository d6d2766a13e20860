package main

import (
	"testing"
	"time"
)

func TestSizesAreReadWithAndWithoutUnits(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "64KiB": 64 << 10, "1 GiB": 1 << 30, "10GB": 1e10, "7B": 7,
	} {
		var b byteSize
		if err := b.Set(in); err != nil || int64(b) != want {
			t.Errorf("%q is %d, %v; want %d", in, b, err, want)
		}
		var back byteSize
		if err := back.Set(b.String()); err != nil || back != b {
			t.Errorf("%q prints as %q, which is %d, %v", in, b.String(), back, err)
		}
	}
	for _, in := range []string{"", "-1", "big", "1.5GiB", "9999999999GiB", "GiB"} {
		var b byteSize
		if err := b.Set(in); err == nil {
			t.Errorf("%q is taken for %d", in, b)
		}
	}
}

func TestSpansAreReadInDaysToo(t *testing.T) {
	for text, want := range map[string]time.Duration{"2h": 2 * time.Hour, "7d": 168 * time.Hour, "0s": 0, "1h30m": 90 * time.Minute} {
		if d, ok := parseSpan(text); !ok || d != want {
			t.Errorf("%q is %v, %v", text, d, ok)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-2h", "1.5d", "99999d", "1d2h", "soon"} {
		if d, ok := parseSpan(text); ok {
			t.Errorf("%q is %v", text, d)
		}
	}
}
