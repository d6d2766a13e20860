package broker

import (
	"time"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

const (
	// maxResident bounds how many bytes of mapped files stay in the process's memory.
	// They are the page cache's in any case, but as long as they are mapped they count
	// as the process's: a reader of a long log would look as if it had eaten the
	// machine, and in a container with a limit it would be the one that is killed.
	maxResident = 128 << 20
	// residentEvery is how often that is looked at: at 1 GB/s of reading, every 100 MB.
	residentEvery = 100 * time.Millisecond
)

// boundResident keeps mapped files from staying in memory, until the broker closes.
// A page that is needed again costs a minor fault for each 64 KiB.
func (b *Broker) boundResident() {
	tick := time.NewTicker(residentEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		n, err := mmapfile.Resident()
		if err == nil && n > maxResident {
			if err = b.wal.Unload(); err == nil {
				err = b.index.Unload()
			}
		}
		if err != nil {
			b.log.Warn("mapped files stay in memory", "error", err)
			return
		}
	}
}
