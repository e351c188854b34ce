package shardcopy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const chunkBytes = 256 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn is a stream that ended without its checksum.
var errTorn = errors.New("the stream of the shard ended early")

// writer sends what is written in chunks, and counts.
type writer struct {
	send  func(data []byte) error
	bytes uint64
	sum   uint32
}

func (w *writer) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		c := b[:min(len(b), chunkBytes)]
		if err := w.send(c); err != nil {
			return n, err
		}
		w.bytes += uint64(len(c))
		w.sum = crc32.Update(w.sum, castagnoli, c)
		n += len(c)
		b = b[len(c):]
	}
	return n, nil
}

// chunk is a message of a stream in either direction.
type chunk interface {
	GetData() []byte
	GetLast() bool
	GetBytes() uint64
	GetChecksum() uint32
}

// reader is the data of a stream; it ends with io.EOF only behind the right checksum.
type reader struct {
	recv  func() (chunk, error)
	bytes uint64
	sum   uint32
	rest  []byte
	ended bool
}

func (r *reader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		c, err := r.recv()
		if errors.Is(err, io.EOF) {
			return 0, errTorn
		} else if err != nil {
			return 0, err
		}
		if c.GetLast() {
			if c.GetBytes() != r.bytes || c.GetChecksum() != r.sum {
				return 0, fmt.Errorf("%d bytes came, with another checksum than the %d that were sent", r.bytes,
					c.GetBytes())
			}
			r.ended = true
			continue
		}
		r.rest = c.GetData()
		r.bytes += uint64(len(r.rest))
		r.sum = crc32.Update(r.sum, castagnoli, r.rest)
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
