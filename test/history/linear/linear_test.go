package linear

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const limit = time.Minute

// at is a call in a history that is written down by hand.
type at struct {
	client       int
	began, ended time.Duration
	ask          Ask
	answer       Answer
}

// judge returns whether the history holds, and the pictures.
func judge(t *testing.T, calls []at) (bool, []string) {
	t.Helper()
	h := &History{}
	var clients []*Client
	for _, c := range calls {
		for len(clients) <= c.client {
			clients = append(clients, h.Client())
		}
		c.ask.Object = "x"
		clients[c.client].add(c.ask, c.answer, c.began, c.ended)
	}
	r, err := h.Check(t.TempDir(), limit)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Undecided) > 0 {
		t.Fatalf("undecided: %v", r)
	}
	return len(r.Wrong) == 0, r.Files
}

func TestWhatNoSingleCopyCouldShowIsFound(t *testing.T) {
	create := at{0, 0, 1, Ask{Verb: Create, A: 1, B: 1}, Answer{Done, 1, 1}}
	read := func(began time.Duration, a, b int64) at {
		return at{1, began, began + 1, Ask{Verb: Read}, Answer{Done, a, b}}
	}
	for _, c := range []struct {
		name  string
		calls []at
		holds bool
	}{
		{"what was written is read", []at{create, read(2, 1, 1)}, true},
		{"a read while it is written sees either", []at{create, {0, 2, 9, Ask{Verb: SetA, A: 2}, Answer{Done, 2, 1}}, read(3, 1, 1), read(5, 2, 1)}, true},
		{"a stale read", []at{create, {0, 2, 3, Ask{Verb: SetA, A: 2}, Answer{Done, 2, 1}}, read(4, 1, 1)}, false},
		{"a read that goes back", []at{create, {0, 2, 9, Ask{Verb: SetA, A: 2}, Answer{Done, 2, 1}}, read(3, 2, 1), read(5, 1, 1)}, false},
		{"a lost update", []at{create, {0, 2, 5, Ask{Verb: SetA, A: 2}, Answer{Done, 2, 1}}, {2, 2, 5, Ask{Verb: SetB, B: 2}, Answer{Done, 1, 2}}, read(6, 1, 2)}, false},
		{"two updates of two values", []at{create, {0, 2, 5, Ask{Verb: SetA, A: 2}, Answer{Done, 2, 1}}, {2, 2, 5, Ask{Verb: SetB, B: 2}, Answer{Done, 2, 2}}, read(6, 2, 2)}, true},
		{"created twice", []at{create, {2, 0, 1, Ask{Verb: Create, A: 2, B: 2}, Answer{Done, 2, 2}}}, false},
		{"one of two is told that it exists", []at{create, {2, 0, 1, Ask{Verb: Create, A: 2, B: 2}, Answer{Kind: Exists}}}, true},
		{"deleted twice", []at{create, {0, 2, 5, Ask{Verb: Delete}, Answer{Kind: Done}}, {2, 2, 5, Ask{Verb: Delete}, Answer{Kind: Done}}}, false},
		{"read after it was deleted", []at{create, {0, 2, 3, Ask{Verb: Delete}, Answer{Kind: Done}}, read(4, 1, 1)}, false},
		{"missing although nobody deleted it", []at{create, {1, 2, 3, Ask{Verb: Read}, Answer{Kind: Missing}}}, false},
		{"what grows has become less", []at{create, {0, 2, 3, Ask{Verb: SetB, B: 0, Grows: true}, Answer{Done, 1, 0}}}, false},
		{"an unknown change happened", []at{create, {0, 2, 3, Ask{Verb: SetA, A: 2}, Answer{Kind: Unknown}}, read(8, 2, 1)}, true},
		{"an unknown change did not happen", []at{create, {0, 2, 3, Ask{Verb: SetA, A: 2}, Answer{Kind: Unknown}}, read(8, 1, 1)}, true},
		{"an unknown change happened late", []at{create, {0, 2, 3, Ask{Verb: SetA, A: 2}, Answer{Kind: Unknown}}, read(8, 1, 1), read(10, 2, 1)}, true},
		{"an unknown change is taken back", []at{create, {0, 2, 3, Ask{Verb: SetA, A: 2}, Answer{Kind: Unknown}}, read(8, 2, 1), read(10, 1, 1)}, false},
		{"an unknown change is seen before it was asked for", []at{create, read(2, 2, 1), {0, 4, 5, Ask{Verb: SetA, A: 2}, Answer{Kind: Unknown}}}, false},
		{"an offset that goes back", []at{{0, 0, 1, Ask{Verb: Put, A: 1}, Answer{Kind: Done}}, {0, 2, 3, Ask{Verb: Put, A: 2}, Answer{Kind: Done}}, read(4, 1, 0)}, false},
		{"an offset that is lost", []at{{0, 0, 1, Ask{Verb: Put, A: 1}, Answer{Kind: Done}}, {1, 2, 3, Ask{Verb: Read}, Answer{Kind: Missing}}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			holds, files := judge(t, c.calls)
			if holds != c.holds {
				t.Fatalf("judged %v, want %v", holds, c.holds)
			}
			if !holds {
				page, err := os.ReadFile(files[0])
				if err != nil || !strings.Contains(string(page), "<html") {
					t.Fatalf("there is no picture of it: %v", err)
				}
			}
		})
	}
}

// Long histories of many clients, as they come from a run: as one copy made them they
// hold, and with one answer changed to an older one they do not.
func TestOneStaleReadOfManyIsFound(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0))
		var calls []at
		var now object
		values := int64(0)
		ends := make([]time.Duration, 6) // of what each client did last
		for i := range time.Duration(200) {
			ask := Ask{Verb: []Verb{Create, Read, Read, Read, SetA, SetA, SetB, Delete}[r.IntN(8)], Grows: true}
			values++
			ask.A, ask.B = values, int64(r.IntN(8))
			if ask.Verb == Delete && r.IntN(4) > 0 {
				ask.Verb = Read
			}
			// It takes effect at 10*i, and begins before and ends after, as long as its
			// client has done with what it did before.
			client := r.IntN(len(ends))
			began := max(10*i-time.Duration(r.IntN(100)), ends[client]+1)
			if began > 10*i {
				continue
			}
			var answer Answer
			now, answer = now.next(ask)
			ends[client] = 10*i + time.Duration(r.IntN(100))
			if ask.Verb != Read && r.IntN(20) == 0 {
				answer = Answer{Kind: Unknown}
			}
			calls = append(calls, at{client, began, ends[client], ask, answer})
		}
		if holds, _ := judge(t, calls); !holds {
			t.Fatalf("seed %d: a good history is judged a bad one", seed)
		}
		// A value of its own is written, read, and then another is written and answered:
		// whoever asks later must not read the first.
		end := slices.Max(ends) + 1
		put := func(n int64) at {
			values++
			return at{0, end + 4*time.Duration(n), end + 4*time.Duration(n) + 1, Ask{Verb: Put, A: values}, Answer{Kind: Done}}
		}
		first, second := put(0), put(1)
		stale := at{1, end + 8, end + 9, Ask{Verb: Read}, Answer{Done, first.ask.A, now.b}}
		if holds, _ := judge(t, append(calls, first, second, stale)); holds {
			t.Fatalf("seed %d: a stale read is not found", seed)
		}
	}
}
