//go:build !race

// The race detector has pools forget at random.

package access

import (
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestACheckDoesNotAllocate(t *testing.T) {
	tb := busy(t)
	authorization, date := Sign("shop", "s-secret-1", noon)
	o := Object{Topic, record.Resource{Name: "orders-eu"}}
	if n := testing.AllocsPerRun(200, func() { check(t, tb, authorization, date, o) }); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}
