package commitlog

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// coldBytes is a mapping that is asked for parts of it; one byte cannot be read.
type coldBytes struct {
	mmapfile.Mapping
	bytes [10 * pieceBytes]byte
	bad   int64
	asked [][2]int64
}

var errMedium = errors.New("medium error")

func (c *coldBytes) Bytes() []byte { return c.bytes[:] }

func (c *coldBytes) Populate(off, n int64) error {
	c.asked = append(c.asked, [2]int64{off, n})
	if off <= c.bad && c.bad < off+n {
		return errMedium
	}
	return nil
}

func TestRecordsThatLieSideBySideAreBroughtInTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		c := &coldBytes{bad: 5*pieceBytes + 100}
		m := &mapping{Mapping: c}
		for i, step := range []struct {
			after     time.Duration
			off, size int64
			want      [][2]int64
			err       error
		}{
			{0, 1000, 1000, [][2]int64{{0, pieceBytes}}, nil},
			{0, 2000, 1000, nil, nil},
			{0, pieceBytes - 500, 1000, [][2]int64{{0, 2 * pieceBytes}}, nil},
			{pieceLasts, pieceBytes + 500, 1000, nil, nil},
			{time.Millisecond, 1000, 1000, [][2]int64{{0, pieceBytes}}, nil},
			{0, 10*pieceBytes - 10, 10, [][2]int64{{9 * pieceBytes, pieceBytes}}, nil},
			// What lies beside a byte that cannot be read can be read.
			{0, 5*pieceBytes + 200, 10, [][2]int64{{5 * pieceBytes, pieceBytes}, {5*pieceBytes + 200, 10}}, nil},
			{0, 5*pieceBytes + 95, 10, [][2]int64{{5 * pieceBytes, pieceBytes}, {5*pieceBytes + 95, 10}}, errMedium},
		} {
			time.Sleep(step.after)
			c.asked = nil
			if err := m.bring(step.off, step.size, slots); err != step.err {
				t.Errorf("step %d: %v", i, err)
			}
			if !slices.Equal(c.asked, step.want) {
				t.Errorf("step %d: asked for %v, want %v", i, c.asked, step.want)
			}
		}
	})
}
