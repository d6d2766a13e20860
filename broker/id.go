package broker

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// StoreID is the part of position ids that is the store's own, see
// record.PositionID.
func (b *Broker) StoreID() uint64 { return b.storeID.Load() }

// storeIDOf makes it from the store's identity.
func storeIDOf(id []byte) uint64 {
	var b [8]byte
	copy(b[:], id)
	return binary.BigEndian.Uint64(b[:])
}

// messageID returns the id of the message whose record is at pos: its producer's,
// or else the one that its position gives it.
func (b *Broker) messageID(m *record.Message, pos record.Position) string {
	return m.ID(b.StoreID(), pos)
}

func (b *Broker) halfID(h *transaction.Half) string {
	if h.MessageID != "" {
		return h.MessageID
	}
	return record.PositionID(b.StoreID(), h.Position)
}

// positionOf returns where the message is that a position id names, if the log
// still has that record: a copy that retention made of it is in the key index.
func (b *Broker) positionOf(id string) (record.Position, bool) {
	store, pos, ok := record.ParsePositionID(id)
	if !ok || store != b.StoreID() {
		return 0, false
	}
	v, m, err := b.viewMessage(pos) // a client's word: most positions are no record
	if err != nil {
		return 0, false
	}
	defer v.Release()
	return pos, b.messageID(&m, pos) == id
}
