package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestDemoTellsItsStoryAndLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	out := ok(t, "demo")
	for _, part := range []string{
		"the broker asks shop-2 about order-6",
		"order-4 was not paid within 2s: cancelled", "order-8 was not paid", "4 were paid and their timeouts recalled",
		"order-1 for Europe", "order-6 for Europe",
		"FAILED, attempt 3", "bob-3    shipped", "attempts exhausted", "1 dead letter redriven", "bob-2    shipped",
		"its body is in the log once", "redriven to parcels/", "Everything was as it must be",
	} {
		if !strings.Contains(out, part) {
			t.Errorf("it lacks %q", part)
		}
	}
	for customer, want := range map[string]string{"alice": "1 2 3", "bob": "1 3 2", "carol": "1 2 3"} {
		var got []string
		for _, m := range regexp.MustCompile(customer+`-(\d) +shipped`).FindAllStringSubmatch(out, -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("the parcels of %s were shipped as %v, want %s", customer, got, want)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("escape sequences, and this is no terminal")
	}
	if t.Failed() {
		t.Log(out)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestDemoEndsWhenItIsToldTo(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := r.Read(b)
			if bytes.Contains(b[:n], []byte("order-1 ")) {
				cancel() // and go on reading
			}
			if err != nil {
				return
			}
		}
	}()
	code := execute(ctx, []string{"demo"}, nil, w, io.Discard)
	w.Close()
	if left, err := os.ReadDir(tmp); code != exitFailed || err != nil || len(left) > 0 {
		t.Errorf("exit %d, %v is left, %v", code, left, err)
	}
}
