package replica

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// identity is who a node is. It is in the file "node" of the node's directory, which
// is replaced as a whole. All integers are little-endian.
//
//	off size
//	  0   8   magic "GNTRYNOD"
//	  8   4   version, 1
//	 12   4   CRC-32C of [16, 128)
//	 16   8   number of the directory, random
//	 24   8   cluster id; 0 = not known yet
//	 32   1   1 = it is a member: raft may run, and its vote is beside this file
//	 33   7   0
//	 40   1   length of the name
//	 41  63   the name, then 0
//	104  24   0
type identity struct {
	name               string
	directory, cluster uint64
	member             bool
}

const (
	identityMagic   = "GNTRYNOD"
	identityVersion = 1
	identityLen     = 128
	identityName    = 40
	identityNameEnd = 104
	identityFile    = "node"
)

var le = binary.LittleEndian

func (i identity) id() string { return peer.NewID(i.name, i.directory) }

func (i identity) encode() []byte {
	b := make([]byte, identityLen)
	copy(b, identityMagic)
	le.PutUint32(b[8:], identityVersion)
	le.PutUint64(b[16:], i.directory)
	le.PutUint64(b[24:], i.cluster)
	if i.member {
		b[32] = 1
	}
	b[identityName] = byte(copy(b[identityName+1:identityNameEnd], i.name))
	le.PutUint32(b[12:], record.CRC(b[16:]))
	return b
}

func decodeIdentity(b []byte) (i identity, err error) {
	switch {
	case len(b) != identityLen || string(b[:8]) != identityMagic:
		return i, fmt.Errorf("%d bytes that are not a node's identity", len(b))
	case le.Uint32(b[8:]) != identityVersion:
		return i, fmt.Errorf("version %d, want %d", le.Uint32(b[8:]), identityVersion)
	case record.CRC(b[16:]) != le.Uint32(b[12:]):
		return i, errors.New("checksum does not match")
	}
	n := int(b[identityName])
	if n > identityNameEnd-identityName-1 {
		return i, errors.New("the name is cut off")
	}
	i = identity{
		name:      string(b[identityName+1:][:n]),
		directory: le.Uint64(b[16:]), cluster: le.Uint64(b[24:]), member: b[32] == 1,
	}
	if string(i.encode()) != string(b) {
		return i, errors.New("it uses a field this build does not know")
	}
	return i, peer.CheckID(i.id())
}

func (i identity) write(dir string) error {
	if err := mmapfile.WriteFile(mmapfile.OS, filepath.Join(dir, identityFile), i.encode()); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// readIdentity returns fs.ErrNotExist when dir was never a node's.
func readIdentity(dir string) (identity, error) {
	name := filepath.Join(dir, identityFile)
	b, err := mmapfile.ReadFile(mmapfile.OS, name)
	if err != nil {
		return identity{}, fmt.Errorf("replica: %w", err)
	}
	i, err := decodeIdentity(b)
	if err != nil {
		return identity{}, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return i, nil
}

// Exists reports whether dir is that of a member of a cluster, whose log is
// replicated, or of one that repairs itself. One that has begun to join, and was not
// answered, is none yet.
func Exists(dir string) (bool, error) {
	if _, err := readKnown(dir, repairFile); !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	i, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, ErrDamaged) {
		_, unknown := readKnown(dir, peersFile)
		return unknown == nil, nil // Open says more
	}
	return i.member, err
}

func newNumber() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return max(1, le.Uint64(b[:]))
}

// ownIdentity returns the identity in dir, made when there is none and the options
// say how this node comes into a cluster.
func ownIdentity(opts *Options) (identity, error) {
	i, err := readIdentity(opts.Dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return i, err
	case !i.member && !opts.Bootstrap && opts.Join == "":
		return i, fmt.Errorf("%w: %s", ErrNoMember, opts.Dir)
	case err != nil:
		i = identity{name: opts.Name, directory: newNumber()}
		if err := peer.CheckID(i.id()); err != nil {
			return i, fmt.Errorf("replica: %w", err)
		}
	case i.name != opts.Name:
		return i, fmt.Errorf("replica: %s is the directory of node %q, not of %q", opts.Dir, i.name, opts.Name)
	}
	switch {
	case i.member:
	case opts.Join != "":
		i.cluster = 0 // the cluster says
	case i.cluster == 0:
		i.cluster = newNumber()
	}
	return i, nil
}
