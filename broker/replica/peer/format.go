package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A connection between nodes starts with a preamble from the side that dialled, and
// an answer. Then it belongs to what the preamble named. All integers are
// little-endian.
//
// # Preamble
//
//	off size
//	  0   8   magic "GNTRYPER"
//	  8   2   version, 1: what follows depends on it
//	 10   2   kind: what the connection is for, see Kind
//	 12   4   0
//	 16   8   cluster id; 0 = a node that wants to join, for Control
//	 24   8   group id
//	 32   1   length of the sender's ID, see NewID
//	 33  63   the sender's ID, then 0
//	 96   1   length of the target's ID; 0 = whoever is there, from a node that wants to join
//	 97  63   the target's ID, then 0
//
// # Answer
//
//	off size
//	  0   8   magic "GNTRYPER"
//	  8   1   a Reason, 0 = accepted
//	  9   1   length of the text
//	 10   n   text: why not
const (
	preambleMagic   = "GNTRYPER"
	preambleVersion = 1
	versionEnd      = 10
	preambleLen     = 160
	senderOff       = 32
	targetOff       = 96
)

// Kind is a kind of connection.
type Kind uint16

const (
	Raft     Kind = 1 // hashicorp/raft's RPCs, of one group
	Backfill Kind = 2 // segments for a node that has none yet
	Control  Kind = 3 // a question and its answer
	Client   Kind = 4 // what a client says to the leader, passed on
	Operator Kind = 5 // an operator's call by HTTP to the leader, passed on
)

func (k Kind) String() string {
	switch k {
	case Raft:
		return "raft"
	case Backfill:
		return "backfill"
	case Control:
		return "control"
	case Client:
		return "client"
	case Operator:
		return "operator"
	}
	return fmt.Sprintf("kind %d", uint16(k))
}

// Purpose is what a connection is for.
type Purpose struct {
	Kind  Kind
	Group uint64 // raft group, 0 when the kind has none
}

func (p Purpose) String() string { return fmt.Sprintf("%s of group %d", p.Kind, p.Group) }

// Reason is why a connection was refused.
type Reason uint8

const (
	accepted      Reason = 0
	WrongVersion  Reason = 1 // the two nodes run builds too far apart
	WrongCluster  Reason = 2
	WrongTarget   Reason = 3 // another node is at this address
	WrongSender   Reason = 4 // the certificate is not the sender's
	NotServed     Reason = 5 // nobody is there for this purpose, or not yet
	WrongPreamble Reason = 6
)

// RefusedError says that the other node refused a connection.
type RefusedError struct {
	Reason Reason
	Text   string // in the other node's words
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused: %q", e.Text) }

func refuse(reason Reason, format string, args ...any) error {
	return &RefusedError{reason, fmt.Sprintf(format, args...)}
}

type preamble struct {
	Purpose        Purpose
	Cluster        uint64
	Sender, Target string
}

var le = binary.LittleEndian

func (p *preamble) encode() []byte {
	b := make([]byte, preambleLen)
	copy(b, preambleMagic)
	le.PutUint16(b[8:], preambleVersion)
	le.PutUint16(b[10:], uint16(p.Purpose.Kind))
	le.PutUint64(b[16:], p.Cluster)
	le.PutUint64(b[24:], p.Purpose.Group)
	b[senderOff] = byte(copy(b[senderOff+1:targetOff], p.Sender))
	b[targetOff] = byte(copy(b[targetOff+1:], p.Target))
	return b
}

// errNoPeer says that whoever connected does not speak this protocol, so that it
// gets no answer either.
var errNoPeer = errors.New("the other side does not speak like a Gantry node, or one of the two has no certificate")

// readPreamble reads a preamble and not a byte more. The error is errNoPeer, a
// *RefusedError to answer with, or that of r.
func readPreamble(r io.Reader) (preamble, error) {
	var b [preambleLen]byte
	if _, err := io.ReadFull(r, b[:versionEnd]); err != nil {
		return preamble{}, err
	}
	if string(b[:8]) != preambleMagic {
		return preamble{}, errNoPeer
	}
	if v := le.Uint16(b[8:]); v != preambleVersion {
		return preamble{}, refuse(WrongVersion, "the protocol between nodes is version %d here, not %d", preambleVersion, v)
	}
	if _, err := io.ReadFull(r, b[versionEnd:]); err != nil {
		return preamble{}, err
	}
	p := preamble{
		Purpose: Purpose{Kind: Kind(le.Uint16(b[10:])), Group: le.Uint64(b[24:])},
		Cluster: le.Uint64(b[16:]),
	}
	for _, f := range []struct {
		id    *string
		field []byte
	}{{&p.Sender, b[senderOff:targetOff]}, {&p.Target, b[targetOff:]}} {
		n := int(f.field[0])
		if n > maxID || strings.Trim(string(f.field[1+n:]), "\x00") != "" {
			return preamble{}, refuse(WrongPreamble, "an ID in the preamble is malformed")
		}
		*f.id = string(f.field[1 : 1+n])
		if n == 0 && f.id == &p.Target && p.Cluster == 0 {
			continue
		}
		if err := CheckID(*f.id); err != nil {
			return preamble{}, refuse(WrongPreamble, "%v", err)
		}
	}
	if le.Uint32(b[12:]) != 0 {
		return preamble{}, refuse(WrongPreamble, "the preamble uses a field this build does not know")
	}
	return p, nil
}

func writeAnswer(w io.Writer, reason Reason, text string) error {
	text = text[:min(len(text), 255)]
	_, err := w.Write(append([]byte(preambleMagic), append([]byte{byte(reason), byte(len(text))}, text...)...))
	return err
}

// readAnswer returns nil when the connection was accepted, else errNoPeer, a
// *RefusedError or that of r.
func readAnswer(r io.Reader) error {
	var b [10 + 255]byte
	if _, err := io.ReadFull(r, b[:10]); err != nil {
		return err
	}
	if string(b[:8]) != preambleMagic {
		return errNoPeer
	}
	text := b[10 : 10+int(b[9])]
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	if reason := Reason(b[8]); reason != accepted {
		return &RefusedError{reason, string(text)}
	}
	return nil
}
