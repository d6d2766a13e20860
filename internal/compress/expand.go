package compress

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ErrTooLarge: what comes out would be more than record.MaxBody.
var ErrTooLarge = fmt.Errorf("compress: the body is larger than %d bytes when it is decompressed", record.MaxBody)

var errEmpty = errors.New("compress: nothing comes out of the body")

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	return must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(record.MaxBody)))
})

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// Expand returns what a body was made of, in memory of its own, by the packing of its
// record's flags, one of record.FlagsPacked. The body may be anybody's: what comes
// out is 1 byte to record.MaxBody, and whatever body claims, a few times that is all that
// is allocated on the way.
func Expand(packing record.Flags, body []byte) (out []byte, err error) {
	switch packing {
	case record.FlagGzip:
		r := gzipReaders.Get().(*gzip.Reader)
		defer gzipReaders.Put(r)
		if err = r.Reset(bytes.NewReader(body)); err == nil {
			out, err = readAll(r, len(body))
		}
	case record.FlagZstd:
		if out, err = zstdDecoder().DecodeAll(body, nil); errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
			err = ErrTooLarge
		}
	case record.FlagLZ4:
		r := lz4Readers.Get().(*lz4.Reader)
		defer lz4Readers.Put(r)
		r.Reset(bytes.NewReader(body))
		out, err = readAll(r, len(body))
	case record.FlagS2:
		var n int
		switch n, err = s2.DecodedLen(body); {
		case err != nil:
		case n > record.MaxBody:
			err = ErrTooLarge
		default:
			out, err = s2.Decode(make([]byte, n), body)
		}
	default:
		err = fmt.Errorf("compress: the packing %#x is not known", packing)
	}
	switch {
	case err != nil:
		return nil, err
	case len(out) == 0:
		return nil, errEmpty
	case len(out) > record.MaxBody:
		return nil, ErrTooLarge
	}
	return out, nil
}

// readAll reads to the end of r, but not much beyond record.MaxBody. packed is the size
// of what r reads.
func readAll(r io.Reader, packed int) ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, 0, min(3*packed, record.MaxBody)+bytes.MinRead))
	_, err := out.ReadFrom(io.LimitReader(r, record.MaxBody+1))
	return out.Bytes(), err
}
