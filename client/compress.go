package client

import (
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/compress"
)

// Compression is how a producer compresses the bodies of its messages.
type Compression int

const (
	NoCompression Compression = iota
	Zstd                      // the smallest
	LZ4                       // frames
	S2                        // blocks, at the least CPU
	compressions
)

var packings = [compressions]record.Flags{0, record.FlagZstd, record.FlagLZ4, record.FlagS2}

// String is the name that Compression of a message returns, and "none".
func (c Compression) String() string {
	if c <= NoCompression || c >= compressions {
		return "none"
	}
	return packings[c].PackingName()
}

// space is memory in which a body is compressed. The body is copied into it: what is
// given to a codec would have to be on the heap, and a caller's message need not be.
type space struct{ plain, packed []byte }

var spaces = sync.Pool{New: func() any { return new(space) }}

// compress returns the body that is to be sent, and the flags that say what it is. It
// is good until s is used again.
func (s *space) compress(c Compression, from int, body []byte) ([]byte, record.Flags) {
	if len(body) < from || len(body) > record.MaxBody {
		return body, 0
	}
	s.plain = append(s.plain[:0], body...)
	packed, err := compress.Body(s.packed[:0], packings[c], s.plain)
	if s.packed = packed; err != nil || len(packed) >= len(body) {
		return body, 0
	}
	return packed, packings[c]
}

// packedBody decompresses a body once, when somebody wants it: what waits in a
// consumer's inbox stays as small as it came.
type packedBody struct {
	flags  record.Flags
	stored []byte
	once   sync.Once
	body   []byte
	err    error
}

func packedBodyOf(m *record.Message) *packedBody {
	if m.Flags.Packing() == 0 {
		return nil
	}
	return &packedBody{flags: m.Flags.Packing(), stored: m.Body}
}

func (p *packedBody) read() ([]byte, error) {
	p.once.Do(func() {
		p.body, p.err = compress.Expand(p.flags, p.stored)
		p.stored = nil
	})
	return p.body, p.err
}
