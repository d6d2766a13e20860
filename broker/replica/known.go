package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// known is whom a node knows. The membership is in the log, so a node whose log is
// damaged could not ask anybody; the file "peers" says it once more, and the file
// "repair" is a copy of it with the reason (see repair.go). Each is replaced as a whole.
// All integers are little-endian.
//
//	off size
//	  0   8   magic "GNTRYPRS"
//	  8   4   version, 1
//	 12   4   CRC-32C of [16, end)
//	 16   -   JSON of this
type known struct {
	Node    string // ID of the node whose file this is
	Cluster uint64
	Others  []other
	Reason  string `json:",omitempty"` // why the node repairs itself
}

// other is another member.
type other struct {
	Peer  string // its address
	Voter bool
}

const (
	knownMagic   = "GNTRYPRS"
	knownVersion = 1
	knownHeader  = 16
	peersFile    = "peers"
)

// voters is how many others count.
func (k known) voters() (n int) {
	for _, o := range k.Others {
		if o.Voter {
			n++
		}
	}
	return n
}

// addresses joins where the others are, as Options.Join has it.
func (k known) addresses() string {
	var out []string
	for _, o := range k.Others {
		out = append(out, o.Peer)
	}
	return strings.Join(out, ",")
}

func (k known) equal(to known) bool {
	return k.Node == to.Node && k.Cluster == to.Cluster && slices.Equal(k.Others, to.Others)
}

func (k known) encode() ([]byte, error) {
	b := make([]byte, knownHeader)
	copy(b, knownMagic)
	le.PutUint32(b[8:], knownVersion)
	j, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	b = append(b, j...)
	le.PutUint32(b[12:], record.CRC(b[knownHeader:]))
	return b, nil
}

func decodeKnown(b []byte) (k known, err error) {
	switch {
	case len(b) < knownHeader || string(b[:8]) != knownMagic:
		return k, fmt.Errorf("%d bytes that do not say whom a node knows", len(b))
	case le.Uint32(b[8:]) != knownVersion:
		return k, fmt.Errorf("version %d, want %d", le.Uint32(b[8:]), knownVersion)
	case record.CRC(b[knownHeader:]) != le.Uint32(b[12:]):
		return k, errors.New("checksum does not match")
	}
	return k, json.Unmarshal(b[knownHeader:], &k)
}

func (k known) write(dir, file string) error {
	b, err := k.encode()
	if err == nil {
		err = mmapfile.WriteFile(mmapfile.OS, filepath.Join(dir, file), b)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// readKnown returns fs.ErrNotExist when there is no such file.
func readKnown(dir, file string) (known, error) {
	name := filepath.Join(dir, file)
	b, err := mmapfile.ReadFile(mmapfile.OS, name)
	if err != nil {
		return known{}, fmt.Errorf("replica: %w", err)
	}
	k, err := decodeKnown(b)
	if err != nil {
		return known{}, fmt.Errorf("replica: %s: %w", name, err)
	}
	return k, nil
}

// noteMembers writes down whom this node knows, when that is not what it wrote last.
func (n *Node) noteMembers() {
	members := n.Members()
	if n.parts.endpoint == nil || !slices.ContainsFunc(members, func(m Member) bool { return m.ID == n.parts.id }) {
		return // it has no files, has not heard yet, or not any more
	}
	k := known{Node: n.parts.id, Cluster: n.parts.cluster}
	for _, m := range members {
		if m.ID != n.parts.id {
			k.Others = append(k.Others, other{m.Peer, m.Voter})
		}
	}
	if k.equal(n.knows) {
		return
	}
	if err := k.write(n.opts.Dir, peersFile); err != nil {
		n.log.Warn("whom this node knows is not written down", "error", err)
		return
	}
	n.knows = k
}
