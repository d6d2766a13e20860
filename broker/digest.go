package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Replicas that have applied the same log hold the same state. A digest proves it: a
// digest record marks a place in the log, and each replica, when it comes by, takes a
// checksum of each part of its state. The record is empty and changes nothing.
//
// What is derived from the log and lies on each disk in its own way is not compared
// as it lies there: of the consume queues it is where each ends, the key index is left
// out.

// Section is a part of the state, and what it is there.
type Section struct {
	Name string
	Sum  string // SHA-256, in hex
	Size int    // bytes of what was summed
}

// maxDigests is how many are remembered: whoever asks does so at once.
const maxDigests = 8

// digests are the newest that were taken.
type digests struct {
	mu    sync.Mutex
	taken []digest
}

type digest struct {
	at       record.Position
	sections []Section
}

// digested are the sections of a checkpoint that are equal in all replicas.
var digested = []struct {
	section int
	name    string
}{
	{sectionIdentity, "identity"},
	{sectionTopics, "topics"},
	{sectionGroups, "groups"},
	{sectionInflight, "leases and offsets"},
	{sectionHistory, "deliveries"},
	{sectionLite, "lite topics"},
	{sectionTransactions, "transactions"},
	{sectionTimers, "timers"},
	{sectionReplays, "replays"},
	{sectionProducers, "producers"},
	{sectionDedup, "deduplication"},
	{sectionAccess, "users and policies"},
	{sectionQuotas, "quotas"},
	{sectionLogBegin, "log begin"},
}

// takeDigest is the dispatcher's, when it applies the record at a position.
func (b *Broker) takeDigest(at record.Position) {
	state := b.tables()
	d := digest{at: at}
	add := func(name string, state []byte) {
		sum := sha256.Sum256(state)
		d.sections = append(d.sections, Section{Name: name, Sum: hex.EncodeToString(sum[:]), Size: len(state)})
	}
	for _, s := range digested {
		add(s.name, state[s.section])
	}
	add("queues", b.index.AppendEnds(nil))
	b.digests.mu.Lock()
	defer b.digests.mu.Unlock()
	b.digests.taken = append(b.digests.taken, d)
	if n := len(b.digests.taken); n > maxDigests {
		b.digests.taken = slices.Delete(b.digests.taken, 0, n-maxDigests)
	}
}

// MarkDigest has all replicas take a digest, and returns where. Digest tells it.
func (b *Broker) MarkDigest() (record.Position, error) {
	cmd, start := record.BeginCommand(nil, record.KindDigest)
	batch := record1(record.EndCommand(cmd, start))
	if err := b.commit(batch); err != nil {
		return 0, err
	}
	return batch.Position(0), nil
}

// Digest returns the digest that was taken at a position, when it is applied here. It
// may be called when the broker is closed, too.
func (b *Broker) Digest(ctx context.Context, at record.Position) ([]Section, error) {
	if err := b.dispatcher.Await(ctx, at+1); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b.digests.mu.Lock()
	defer b.digests.mu.Unlock()
	for _, d := range b.digests.taken {
		if d.at == at {
			return d.sections, nil
		}
	}
	return nil, errors.New("broker: the digest was taken before a checkpoint that this node went back to: take another")
}
