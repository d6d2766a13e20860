package peer

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/internal/pki"
)

// Between nodes, a node is called by its name and the number of its data directory,
// "n1/8a3f00c25be1d904". A node whose disk was lost does not know what it has
// promised, a vote above all: it comes back with another number, as another node,
// and nobody takes it for the one that promised. The name is what people and
// certificates use; a cluster has one node of a name at a time.

// maxID is what a preamble has room for.
const maxID = 63

// NewID returns the ID of the node with that name and data directory.
func NewID(name string, directory uint64) string { return fmt.Sprintf("%s/%016x", name, directory) }

// NameOf returns the name in an ID.
func NameOf(id string) string {
	name, _ := SplitID(id)
	return name
}

// SplitID returns the name in an ID, and the number in it, "" if it has none.
func SplitID(id string) (name, directory string) {
	name, directory, _ = strings.Cut(id, "/")
	return name, directory
}

// CheckID reports what is wrong with an ID. A name alone is one, too.
func CheckID(id string) error {
	name, directory, numbered := strings.Cut(id, "/")
	if len(id) > maxID {
		return fmt.Errorf("node id %q: longer than %d characters", id, maxID)
	}
	if n, err := strconv.ParseUint(directory, 16, 64); numbered && (err != nil || NewID(name, n) != id) {
		return fmt.Errorf("node id %q: want NAME/ and 16 hexadecimal digits", id)
	}
	return pki.CheckName(name)
}

// Address is where a node is: what raft's configuration keeps as the address of a
// server, so that every node knows both of every other.
type Address struct {
	Peer   string // for nodes
	Client string // for clients
}

// String joins the two by a comma, which is in none.
func (a Address) String() string {
	if a.Client == "" {
		return a.Peer
	}
	return a.Peer + "," + a.Client
}

// ParseAddress is String's opposite.
func ParseAddress(s string) Address {
	peer, client, _ := strings.Cut(s, ",")
	return Address{peer, client}
}
