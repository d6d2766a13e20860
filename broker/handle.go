package broker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// A receipt handle is opaque to clients: URL-safe base64, unpadded, of
//
//	off size
//	 0   1   version, 1
//	 1   4   group id
//	 5   4   topic id
//	 9   4   queue
//	13   8   queue offset
//	21   8   lease id
//	29   8   deadline, Unix ms
//	37  16   first half of HMAC-SHA-256 of the bytes before, under the store's key
//
// The MAC is checked before any field is believed.
const (
	handleVersion = 1
	handleFields  = 37
	handleMAC     = 16
	handleLen     = handleFields + handleMAC
	handleText    = (handleLen*8 + 5) / 6 // characters
)

// handle is a decoded receipt handle.
type handle struct {
	Key      inflight.SubKey
	Queue    uint32
	Offset   record.QueueOffset
	LeaseID  uint64
	Deadline int64
}

// handleKey seals and opens handles. It may be used concurrently.
type handleKey struct{ sealers sync.Pool }

// sealer is the memory of one seal. What a hash is given may be kept by it, as
// far as the compiler knows, so none of it can be on the stack.
type sealer struct {
	mac  hash.Hash
	sum  [sha256.Size]byte
	raw  [handleLen]byte
	text [handleText]byte
}

func newHandleKey(secret []byte) *handleKey {
	k := &handleKey{}
	k.sealers.New = func() any { return &sealer{mac: hmac.New(sha256.New, secret)} }
	return k
}

// sign returns the MAC of the first n bytes of raw.
func (s *sealer) sign(n int) []byte {
	s.mac.Reset()
	s.mac.Write(s.raw[:n])
	return s.mac.Sum(s.sum[:0])[:handleMAC]
}

// appendSealed appends fields, at most handleFields bytes, with their MAC behind
// them, as text. Every kind of handle begins with a byte of its own.
func (k *handleKey) appendSealed(dst, fields []byte) []byte {
	s := k.sealers.Get().(*sealer)
	n := copy(s.raw[:handleFields], fields)
	n += copy(s.raw[n:], s.sign(n))
	dst = base64.RawURLEncoding.AppendEncode(dst, s.raw[:n])
	k.sealers.Put(s)
	return dst
}

func (k *handleKey) sealed(fields []byte) string {
	return string(k.appendSealed(make([]byte, 0, handleText), fields))
}

// opened fills fields with what sealed was given, and reports whether text is a
// handle of that length that begins with kind.
func (k *handleKey) opened(fields []byte, kind byte, text string) bool {
	n := len(fields)
	if len(text) != base64.RawURLEncoding.EncodedLen(n+handleMAC) {
		return false
	}
	s := k.sealers.Get().(*sealer)
	defer k.sealers.Put(s)
	got, err := strictBase64.Decode(s.raw[:], s.text[:copy(s.text[:], text)])
	if err != nil || got != n+handleMAC || s.raw[0] != kind || !hmac.Equal(s.sign(n), s.raw[n:got]) {
		return false
	}
	copy(fields, s.raw[:n])
	return true
}

// strictBase64 takes one text for each value: a handle cannot be changed into
// another that opens.
var strictBase64 = base64.RawURLEncoding.Strict()

func (k *handleKey) seal(h handle) string {
	return string(k.appendHandle(make([]byte, 0, handleText), h))
}

func (k *handleKey) appendHandle(dst []byte, h handle) []byte {
	var b [handleFields]byte
	le := binary.LittleEndian
	b[0] = handleVersion
	le.PutUint32(b[1:], uint32(h.Key.Group))
	le.PutUint32(b[5:], uint32(h.Key.Topic))
	le.PutUint32(b[9:], h.Queue)
	le.PutUint64(b[13:], uint64(h.Offset))
	le.PutUint64(b[21:], h.LeaseID)
	le.PutUint64(b[29:], uint64(h.Deadline))
	return k.appendSealed(dst, b[:])
}

func (k *handleKey) open(s string) (handle, bool) {
	var b [handleFields]byte
	if !k.opened(b[:], handleVersion, s) {
		return handle{}, false
	}
	le := binary.LittleEndian
	return handle{
		Key:      inflight.SubKey{Group: record.GroupID(le.Uint32(b[1:])), Topic: record.TopicID(le.Uint32(b[5:]))},
		Queue:    le.Uint32(b[9:]),
		Offset:   record.QueueOffset(le.Uint64(b[13:])),
		LeaseID:  le.Uint64(b[21:]),
		Deadline: int64(le.Uint64(b[29:])),
	}, true
}

// identity names the store and holds the secret of its handles. It is the first
// record of a log: store id string (16 bytes) | handle secret string (32 bytes).
type identity struct{ id, secret []byte }

func (i identity) append(dst []byte) []byte {
	return record.AppendBytes(record.AppendBytes(dst, i.id), i.secret)
}

func (b *Broker) restoreIdentity(d *record.Decoder) {
	b.setIdentity(identity{id: append([]byte(nil), d.Bytes()...), secret: append([]byte(nil), d.Bytes()...)})
}

// setIdentity ignores all but the first: handles given out stay good.
func (b *Broker) setIdentity(i identity) {
	if len(b.identity.secret) == 0 && len(i.secret) > 0 {
		b.identity = i
		b.storeID.Store(storeIDOf(i.id))
		b.handles.Store(newHandleKey(i.secret))
	}
}

func (b *Broker) applyIdentity(data []byte) error {
	d := record.NewDecoder(data)
	b.restoreIdentity(d)
	return d.Err()
}

func (b *Broker) createIdentity() error {
	i := identity{id: make([]byte, 16), secret: make([]byte, 32)}
	rand.Read(i.id)
	rand.Read(i.secret)
	cmd, start := record.BeginCommand(nil, record.KindIdentity)
	if err := b.commit(record1(record.EndCommand(i.append(cmd), start))); err != nil {
		return fmt.Errorf("broker: give the store its identity: %w", err)
	}
	return nil
}

// openHandle decodes a client's handle and checks that it belongs to the group
// and topic that the client names.
func (b *Broker) openHandle(s string, key inflight.SubKey) (handle, error) {
	h, ok := b.handles.Load().open(s)
	switch {
	case !ok:
		return handle{}, Errorf(InvalidHandle, "the receipt handle is not one of this broker's")
	case h.Key != key:
		return handle{}, Errorf(InvalidHandle, "the receipt handle belongs to another topic or group")
	}
	return h, nil
}
