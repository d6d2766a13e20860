// Package compress makes a message's body smaller, and whole again. A body is
// compressed by itself, never a batch: see DESIGN.md.
//
//	zstd  one or more frames (RFC 8878)
//	lz4   one or more frames of the LZ4 frame format
//	s2    one block of S2, which a block of Snappy is too
//	gzip  one or more members (RFC 1952); [Body] does not make it
//
// Nothing made by [Body] has a checksum of its own: the record's is over it.
//
// # Concurrency
//
// Every function may be called by any goroutine. None starts one.
package compress

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	// A body is at most 4 MiB, so a larger window would only be memory.
	return must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(record.MaxBody), zstd.WithLowerEncoderMem(true)))
})

var lz4Writers = sync.Pool{New: func() any {
	w := lz4.NewWriter(nil)
	if err := w.Apply(lz4.ChecksumOption(false), lz4.BlockSizeOption(lz4.Block64Kb), lz4.ConcurrencyOption(1)); err != nil {
		panic(err) // the options are constants
	}
	return w
}}

// Body appends body to dst, compressed in the way that packing says:
// record.FlagZstd, FlagLZ4 or FlagS2. It keeps nothing of body.
func Body(dst []byte, packing record.Flags, body []byte) ([]byte, error) {
	switch packing {
	case record.FlagZstd:
		return zstdEncoder().EncodeAll(body, dst), nil
	case record.FlagLZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		out := bytes.NewBuffer(dst)
		w.Reset(out)
		if _, err := w.Write(body); err != nil {
			return dst, err
		}
		if err := w.Close(); err != nil {
			return dst, err
		}
		return out.Bytes(), nil
	case record.FlagS2:
		n := len(dst)
		dst = append(dst, make([]byte, s2.MaxEncodedLen(len(body)))...)
		return dst[:n+len(s2.Encode(dst[n:], body))], nil
	}
	return dst, fmt.Errorf("compress: bodies are not compressed with %#x here", packing)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}
