package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/test/bench/load"
)

// openLoop is n messages at openRate, whoever sends them and gets them. Each body
// begins with the time at which it was meant to be sent.
type openLoop struct {
	size, n int
	begun   time.Time
	arrived []time.Duration // the receiving goroutine's
}

func (l *openLoop) body(intended time.Time) []byte {
	b := bytes.Repeat([]byte("x"), l.size)
	binary.LittleEndian.PutUint64(b, uint64(intended.UnixNano()))
	return b
}

// arrive takes a body that came. One from before the run does not count.
func (l *openLoop) arrive(now time.Time, body []byte) {
	if intended := time.Unix(0, int64(binary.LittleEndian.Uint64(body))); !intended.Before(l.begun) {
		l.arrived = append(l.arrived, now.Sub(intended))
	}
}

// run has send send all, each with a call of its done, and calls receive, if there
// is one, until all have arrived: it takes what came next and tells arrive.
func (l *openLoop) run(ctx context.Context, send func(body []byte, done func(error)), receive func() error) (outcome, error) {
	var wait sync.WaitGroup
	var failed error
	l.begun = time.Now()
	if receive != nil {
		wait.Go(func() {
			for len(l.arrived) < l.n && failed == nil {
				failed = receive()
			}
		})
	}
	sent := make([]time.Duration, l.n)
	var answers sync.WaitGroup
	var sendErr atomic.Pointer[error]
	answers.Add(l.n)
	err := load.Pace(ctx, openRate, l.n, func(i int, intended time.Time) {
		send(l.body(intended), func(err error) {
			sent[i] = time.Since(intended)
			if err != nil {
				sendErr.Store(&err)
			}
			answers.Done()
		})
	})
	if err != nil {
		return outcome{}, err
	}
	answers.Wait()
	wait.Wait()
	if p := sendErr.Load(); p != nil {
		return outcome{}, *p
	}
	o := outcome{Messages: int64(l.n), Send: percentilesOf(sent)}
	if receive != nil {
		o.EndToEnd = percentilesOf(l.arrived)
	}
	return o, failed
}
