package digest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"os"
)

// The format of a digest cache file is drawn in docs/format/digest-cache.md.
const (
	cacheMagic   = "CNDG"
	cacheVersion = 2
	hashVersion  = 2 // grows with every change of what a point's hash is

	frameHeader   = 1 + 4 + 4 // kind, length, checksum
	frameBytes    = 64 << 10  // of records, about
	maxFrame      = 1 << 20
	headerPayload = 4 + 2 + 2 + 8 + 8 + 8 + 8
	endPayload    = 8 + 8 + Windows*24
	recordNumbers = 1 + 8 + 8 + 8
)

// The kinds of frames.
const (
	headerFrame = 1
	recordFrame = 2
	endFrame    = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("damaged")

// cacheID is what a cache file is about. A file of another one is not used.
type cacheID struct {
	key   uint64
	shard uint64
	rng   Range
}

func (id cacheID) payload() []byte {
	b := append([]byte(cacheMagic), 0, cacheVersion, 0, hashVersion)
	b = binary.BigEndian.AppendUint64(b, id.key)
	b = binary.BigEndian.AppendUint64(b, id.shard)
	b = binary.BigEndian.AppendUint64(b, uint64(id.rng.Start))
	return binary.BigEndian.AppendUint64(b, uint64(id.rng.End))
}

// record is a series-field with what it was read from.
type record struct {
	SeriesField
	files     uint64  // fingerprint of the files that it was read from
	unflushed windows // of which the write cache had points
}

func appendRecord(b []byte, r *record) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.Series)))
	b = append(b, r.Series...)
	b = binary.AppendUvarint(b, uint64(len(r.Field)))
	b = append(b, r.Field...)
	b = append(b, byte(r.Type))
	b = binary.BigEndian.AppendUint64(b, r.files)
	b = binary.BigEndian.AppendUint64(b, uint64(r.unflushed))
	var mask uint64
	for w := range r.Windows {
		if r.Windows[w].Count > 0 {
			mask |= 1 << w
		}
	}
	b = binary.BigEndian.AppendUint64(b, mask)
	for m := mask; m != 0; m &= m - 1 {
		b = appendSum(b, r.Windows[bits.TrailingZeros64(m)])
	}
	return b
}

func appendSum(b []byte, s Sum) []byte {
	b = binary.BigEndian.AppendUint64(b, s.Count)
	b = binary.BigEndian.AppendUint64(b, s.Hi)
	return binary.BigEndian.AppendUint64(b, s.Lo)
}

func readSum(b []byte) Sum {
	return Sum{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
}

// decodeRecord reads the first record of b. r.Series is valid as long as b.
func decodeRecord(b []byte, r *record) (rest []byte, err error) {
	text := func() []byte {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			err = errDamaged
			return nil
		}
		t := b[w : w+int(n)]
		b = b[w+int(n):]
		return t
	}
	*r = record{}
	r.Series = text()
	r.Field = string(text())
	if err != nil || len(r.Series) == 0 || len(b) < recordNumbers {
		return nil, errDamaged
	}
	r.Type, r.files, r.unflushed = Type(b[0]), binary.BigEndian.Uint64(b[1:]), windows(binary.BigEndian.Uint64(b[9:]))
	mask := binary.BigEndian.Uint64(b[17:])
	b = b[recordNumbers:]
	if r.Type < Float || r.Type > Unsigned || len(b) < 24*bits.OnesCount64(mask) {
		return nil, errDamaged
	}
	for m := mask; m != 0; m &= m - 1 {
		w := bits.TrailingZeros64(m)
		if r.Windows[w] = readSum(b); r.Windows[w].Count == 0 {
			return nil, errDamaged
		}
		b = b[24:]
	}
	return b, nil
}

// cacheWriter writes a cache file under a temporary name.
type cacheWriter struct {
	file    *os.File
	w       *bufio.Writer
	records []byte
	count   uint64
	totals  [Windows]Sum
	cached  bool // a record has points of the write cache
}

func createCache(dir string, id cacheID) (*cacheWriter, error) {
	f, err := os.CreateTemp(dir, "*.tmp")
	if err != nil {
		return nil, err
	}
	c := &cacheWriter{file: f, w: bufio.NewWriterSize(f, 1<<17)}
	c.frame(headerFrame, id.payload())
	return c, nil
}

// frame leaves errors to the flush at the end.
func (c *cacheWriter) frame(kind byte, payload []byte) {
	var h [frameHeader]byte
	h[0] = kind
	binary.BigEndian.PutUint32(h[1:], uint32(len(payload)))
	binary.BigEndian.PutUint32(h[5:], crc32.Update(crc32.Checksum(h[:5], castagnoli), castagnoli, payload))
	c.w.Write(h[:])
	c.w.Write(payload)
}

func (c *cacheWriter) add(r *record) {
	c.records = appendRecord(c.records, r)
	c.count++
	c.cached = c.cached || r.unflushed != 0
	for w := range r.Windows {
		c.totals[w].Add(r.Windows[w])
	}
	if len(c.records) >= frameBytes {
		c.frame(recordFrame, c.records)
		c.records = c.records[:0]
	}
}

// finish ends the file. state is what it was read from; it returns what the end has.
func (c *cacheWriter) finish(state uint64) (uint64, error) {
	if c.cached {
		state = 0 // a delete takes points out of the write cache, and the files stay as they are
	}
	if len(c.records) > 0 {
		c.frame(recordFrame, c.records)
	}
	b := binary.BigEndian.AppendUint64(nil, state)
	b = binary.BigEndian.AppendUint64(b, c.count)
	for _, s := range c.totals {
		b = appendSum(b, s)
	}
	c.frame(endFrame, b)
	return state, errors.Join(c.w.Flush(), c.file.Sync())
}

func (c *cacheWriter) drop() error { return errors.Join(c.file.Close(), os.Remove(c.file.Name())) }

// cacheEnd is what the end of a cache file says.
type cacheEnd struct {
	state  uint64
	count  uint64
	totals [Windows]Sum
}

// readCacheEnd checks that a file is one about id and was written to its end.
func readCacheEnd(f *os.File, id cacheID) (e cacheEnd, err error) {
	info, err := f.Stat()
	if err != nil {
		return e, err
	}
	size := info.Size()
	if size < 2*frameHeader+headerPayload+endPayload {
		return e, errDamaged
	}
	head, err := readFrame(io.NewSectionReader(f, 0, size), headerFrame, nil)
	if err != nil {
		return e, err
	}
	if string(head) != string(id.payload()) {
		return e, errors.New("of something else")
	}
	b, err := readFrame(io.NewSectionReader(f, size-frameHeader-endPayload, size), endFrame, nil)
	if err != nil {
		return e, err
	}
	if len(b) != endPayload {
		return e, errDamaged
	}
	e.state, e.count = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	for w := range e.totals {
		e.totals[w] = readSum(b[16+24*w:])
	}
	return e, nil
}

// readFrame reads a frame into b. kind 0 is for any but the header.
func readFrame(in io.Reader, kind byte, b []byte) ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	n := binary.BigEndian.Uint32(h[1:])
	if h[0] != kind || n > maxFrame {
		return nil, errDamaged
	}
	if cap(b) < int(n) {
		b = make([]byte, n)
	}
	b = b[:n]
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if crc32.Update(crc32.Checksum(h[:5], castagnoli), castagnoli, b) != binary.BigEndian.Uint32(h[5:]) {
		return nil, errDamaged
	}
	return b, nil
}

// cacheReader reads the records of a cache file in their order.
type cacheReader struct {
	in    *bufio.Reader
	left  uint64 // records
	frame []byte
	rest  []byte
	record
}

func newCacheReader(f *os.File, count uint64) *cacheReader {
	const at = frameHeader + headerPayload
	return &cacheReader{in: bufio.NewReaderSize(io.NewSectionReader(f, at, 1<<62-at), 1<<17), left: count}
}

// next reads the next record, io.EOF at the end. It is valid until the next call.
func (c *cacheReader) next() (err error) {
	if c.left == 0 {
		return io.EOF
	}
	for len(c.rest) == 0 {
		if c.frame, err = readFrame(c.in, recordFrame, c.frame); err != nil {
			return err
		}
		c.rest = c.frame
	}
	c.left--
	c.rest, err = decodeRecord(c.rest, &c.record)
	return err
}
