package broker

import "errors"

// ErrDamaged: state that only a checkpoint holds cannot be read any more. A replica has
// to get it from the others, anybody else from a backup.
var ErrDamaged = errors.New("broker: damaged")

func (c *counters) lastDamage() string {
	if text := c.damage.Load(); text != nil {
		return *text
	}
	return ""
}

// foundDamage is told of damage that is found while the broker runs. An index has seen
// to it by itself that the next Open makes it again; until then what it still says right
// is answered, and what it does not is refused.
func (b *Broker) foundDamage(err error) {
	text := err.Error()
	b.counters.damage.Store(&text)
	b.counters.damages.Add(1)
	b.log.Error("damage was found", "error", err)
	if b.opts.Damaged != nil {
		b.opts.Damaged(err)
	}
}
