package load

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Latencies are those of one open-loop run, unsorted. Each counts from when the
// message was meant to be sent, so that a server that stalls cannot hide behind
// callers that wait for it.
type Latencies struct {
	Send     []time.Duration // until the server's answer
	EndToEnd []time.Duration // until a consumer had it; empty without consumers
}

// Pace calls do(i, intended) n times, perSecond times a second, on a schedule
// that does not wait for anything: a late call is not left out but made at once,
// with the time it was meant for. do must not block. It sleeps in the kernel,
// because a Go timer may be a millisecond late.
func Pace(ctx context.Context, perSecond float64, n int, do func(i int, intended time.Time)) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		setTimerSlack(1)
		defer setTimerSlack(0) // the kernel's default again
		begun := time.Now()
		for i := range n {
			intended := begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
			if wait := time.Until(intended); wait > 0 {
				ts := syscall.NsecToTimespec(int64(wait))
				syscall.Nanosleep(&ts, nil)
			}
			if ctx.Err() != nil {
				return
			}
			do(i, intended)
		}
	}()
	<-done
	return ctx.Err()
}

// setTimerSlack says by how many ns the kernel may wake this thread later than
// asked, 50 us if nobody says so. Where it refuses, latencies are longer by that,
// for everybody alike.
func setTimerSlack(ns uintptr) {
	const prSetTimerSlack = 29
	syscall.Syscall(syscall.SYS_PRCTL, prSetTimerSlack, ns, 0)
}

// Rate sends n messages one by one at perSecond. With consumers above 0 so many
// callers receive them meanwhile, up to 32 a call, and acknowledge what one call
// brought by one other.
func (l *Load) Rate(ctx context.Context, perSecond float64, n, consumers int) (Latencies, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		result  Latencies
		senders sync.WaitGroup
		readers sync.WaitGroup
		sent    = make([]time.Duration, n)
		seen    = make([]time.Duration, n)
		nseen   atomic.Int64
		jobs    = make(chan job, n)
		polls   context.Context
		drained func()
		begun   = time.Now()
	)
	polls, drained = context.WithCancel(ctx)
	defer drained()
	for i := range l.Callers {
		senders.Go(func() {
			c := l.caller(ctx, i)
			body := slices.Clone(l.body)
			for j := range jobs {
				binary.LittleEndian.PutUint64(body, uint64(j.intended.UnixNano()))
				for tries := int64(0); tries == 0; {
					var err error
					if tries, err = c.sendBody(1, body); err != nil {
						cancel(err)
						return
					}
				}
				sent[j.i] = time.Since(j.intended)
			}
		})
	}
	for i := range consumers {
		readers.Go(func() {
			c := l.caller(ctx, i)
			for {
				topic := c.topic()
				entries, err := c.poll(polls, topic, 32, func(intended time.Time) {
					if intended.Before(begun) {
						return // left over from another run
					}
					if k := nseen.Add(1); k <= int64(n) {
						seen[k-1] = time.Since(intended)
						if k == int64(n) {
							drained()
						}
					}
				})
				if polls.Err() != nil {
					c.ack(topic, entries, 32)
					return
				}
				if err == nil {
					_, err = c.ack(topic, entries, 32)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	err := Pace(ctx, perSecond, n, func(i int, intended time.Time) { jobs <- job{i, intended} })
	close(jobs)
	senders.Wait()
	if consumers > 0 && err == nil {
		// Every message was sent; what is not delivered in a while was lost.
		late := time.AfterFunc(30*time.Second, func() {
			cancel(errors.New("rate: not every message was received within 30 s of the last send"))
		})
		defer late.Stop()
	} else {
		drained()
	}
	readers.Wait()
	if err := context.Cause(ctx); err != nil {
		return Latencies{}, err
	}
	l.left.Add(-nseen.Load())
	result.Send, result.EndToEnd = sent, seen[:min(nseen.Load(), int64(n))]
	return result, nil
}

type job struct {
	i        int
	intended time.Time
}
