package quota

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A quota, in quota-put records and in snapshots:
//
//	kind 1 | namespace string | name string
//	| limits: count uvarint, each uvarint, in the order of Limit; missing ones are 0
//
// A quota-delete record is kind, namespace and name. A quota-put replaces what its
// subject had.
//
// Snapshot: count uvarint, each a quota, by kind, namespace and name.
const minQuotaLen = 4

func appendSubject(dst []byte, s Subject) []byte {
	return record.AppendString(record.AppendString(append(dst, byte(s.Kind)), s.Namespace), s.Name)
}

func readSubject(d *record.Decoder) Subject {
	return Subject{Kind: Kind(d.Byte()), Resource: record.Resource{Namespace: d.String(), Name: d.String()}}
}

func appendQuota(dst []byte, q *Quota) []byte {
	dst = binary.AppendUvarint(appendSubject(dst, q.Subject), uint64(limits))
	for _, n := range q.Limits {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

func readQuota(d *record.Decoder) Quota {
	q := Quota{Subject: readSubject(d)}
	for i, n := 0, d.Count(1); i < n && !d.Failed(); i++ {
		if v := d.Uvarint(); i < int(limits) {
			q.Limits[i] = v
		}
	}
	return q
}

// AppendPut encodes the record that sets q.
func AppendPut(dst []byte, q Quota) []byte {
	dst, start := record.BeginCommand(dst, record.KindQuotaPut)
	return record.EndCommand(appendQuota(dst, &q), start)
}

// AppendDelete encodes the record that takes a subject's quota away.
func AppendDelete(dst []byte, s Subject) []byte {
	dst, start := record.BeginCommand(dst, record.KindQuotaDelete)
	return record.EndCommand(appendSubject(dst, s), start)
}
