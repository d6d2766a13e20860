package node

import (
	"context"
	"errors"
	"time"

	"github.com/gantry-mq/gantry/commitlog"
)

// mendEvery is how often a node that is damaged looks whether the others can do without it.
const mendEvery = 10 * time.Second

// errAgain: the broker is to be opened again, which makes its index again.
var errAgain = errors.New("an index is damaged")

// damaged is told of damage by the present broker.
func (l *life) damaged(err error) {
	bad := l.badIndex
	if errors.Is(err, commitlog.ErrCorrupt) {
		bad = l.badLog
	}
	select {
	case bad <- err:
	default: // one is enough
	}
}

// mend sees to damage that is found while the node is at work, as soon as the others can
// do without it; until then what can be read is served. An index is made again by a
// broker that is opened anew. With a damaged log the node leaves and ends, to repair itself
// at its next start: that is what mend returns.
func (l *life) mend(ctx context.Context, stop context.CancelCauseFunc) error {
	var log, index error
	again := time.NewTicker(mendEvery)
	defer again.Stop()
	for told := ""; ; {
		select {
		case log = <-l.badLog:
		case index = <-l.badIndex:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		var no error
		if log != nil {
			if no = l.node.Leave(ctx, log); no == nil {
				stop(log)
				return log
			}
		}
		if index != nil {
			end, err := *l.end.Load(), error(nil)
			if l.node.State().Leads {
				err = l.node.Transfer(ctx, "") // which ends the term
			} else {
				end(errAgain)
			}
			if err == nil {
				index = nil
			}
			no = errors.Join(no, err)
		}
		if no != nil && no.Error() != told {
			told = no.Error()
			l.Logger.Error("this node is damaged, and for now it goes on as it is", "reason", told)
		}
	}
}
