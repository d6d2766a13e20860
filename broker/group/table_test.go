package group

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestGroupSurvivesRecordAndSnapshot(t *testing.T) {
	for _, want := range []Group{
		{ID: 1, Name: record.Resource{Name: "G"}, MaxAttempts: 17, Paused: true, Retry: Retry{Steps: DefaultSteps()}},
		{ID: 3, Name: record.Resource{Name: "S"}, MaxAttempts: 2, Lite: Lite{Shared: true, ResetLeft: true}},
		{ID: 2, Name: record.Resource{Namespace: "n", Name: "G"}, FIFO: true, MaxAttempts: 1, Created: 9, LiteTopic: "P", Lite: Lite{Exclusive: true, ResetTaken: true, Quota: 7},
			Retry: Retry{Initial: time.Second, Max: time.Hour, Multiplier: 1.5}},
	} {
		tb := NewTable()
		rec := AppendPut(nil, want)
		if err := record.Verify(rec); err != nil {
			t.Fatal(err)
		}
		if _, err := tb.ApplyPut(record.Command(rec)); err != nil {
			t.Fatal(err)
		}
		snapshot := tb.AppendSnapshot(nil)
		tb = NewTable()
		d := record.NewDecoder(snapshot)
		if tb.Restore(d); d.Err() != nil {
			t.Fatal(d.Err())
		}
		if got, ok := tb.ByID(want.ID); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if tb.Paused(want.ID) != want.Paused {
			t.Fatal("it is paused, or is not any more")
		}
		if !bytes.Equal(tb.AppendSnapshot(nil), snapshot) {
			t.Fatal("another table")
		}
		if _, err := tb.ApplyDelete(record.Command(AppendDelete(nil, want.ID))); err != nil || len(tb.List()) != 0 || tb.paused.Load() != 0 {
			t.Fatal(err)
		}
	}
}

func TestRetryDelays(t *testing.T) {
	steps := Retry{Steps: []time.Duration{time.Second, 5 * time.Second}}
	double := Retry{Initial: 5 * time.Second, Max: time.Minute, Multiplier: 2}
	for _, c := range []struct {
		r       Retry
		attempt int32
		want    time.Duration
	}{
		{steps, 0, time.Second}, {steps, 1, time.Second}, {steps, 2, 5 * time.Second}, {steps, 99, 5 * time.Second},
		{double, 1, 5 * time.Second}, {double, 2, 10 * time.Second}, {double, 5, time.Minute}, {double, 1 << 30, time.Minute},
	} {
		if got := c.r.Delay(c.attempt); got != c.want {
			t.Errorf("%+v after attempt %d: %v, want %v", c.r, c.attempt, got, c.want)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(record.Command(AppendPut(nil, Group{ID: 3, Name: record.Resource{Name: "G"}, Retry: Retry{Steps: DefaultSteps()}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		NewTable().ApplyPut(data)
		NewTable().ApplyDelete(data)
		NewTable().Restore(record.NewDecoder(data))
	})
}
