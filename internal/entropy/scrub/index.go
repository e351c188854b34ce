package scrub

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
)

// block is one that the index of a file names.
type block struct {
	key []byte
	typ byte
	tsm1.IndexEntry
}

// eachBlock calls fn for each block that the index of a file names, until fn fails or the index is damaged.
func eachBlock(f *os.File, fn func(block) error) (*tsmfile.Damage, error) {
	in, damage, err := openIndex(f)
	if damage != nil || err != nil {
		return damage, err
	}
	var last []byte
	for in.at < in.end {
		begin := in.at
		key, typ, count, ok := in.key()
		if !ok {
			return damagedAt(f, begin, "the index ends in a key"), nil
		}
		if len(key) == 0 || last != nil && bytes.Compare(key, last) <= 0 || typ > tsm1.BlockUnsigned || count == 0 {
			return damagedAt(f, begin, "the index is not in order"), nil
		}
		last = key
		newest := int64(math.MinInt64)
		for i := range count {
			place := in.at
			e, ok := in.entry()
			if !ok {
				return damagedAt(f, place, "the index ends in an entry"), nil
			}
			if e.MinTime > e.MaxTime || i > 0 && e.MinTime < newest || !in.pass(e) {
				return damagedAt(f, place, "the entry %d of %q is none of a block", i, key), nil
			}
			newest = e.MaxTime
			if err := fn(block{key, typ, e}); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func damagedAt(f *os.File, at int64, reason string, args ...any) *tsmfile.Damage {
	return &tsmfile.Damage{File: filepath.Base(f.Name()), Offset: at, Reason: fmt.Sprintf(reason, args...)}
}

// indexReader reads the index of a file from its start to its end.
type indexReader struct {
	r              *bufio.Reader
	start, at, end int64
	next           int64 // where the block after the last one begins
	buf            [indexEntrySize]byte
}

// openIndex finds the index of a file.
func openIndex(f *os.File) (*indexReader, *tsmfile.Damage, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := info.Size()
	if size < headerSize+footerSize {
		return nil, damagedAt(f, size, "the file ends in its header"), nil
	}
	var fixed [footerSize]byte
	if _, err := f.ReadAt(fixed[:headerSize], 0); err != nil {
		return nil, damagedAt(f, 0, "%v", err), nil
	}
	if binary.BigEndian.Uint32(fixed[:]) != magic || fixed[4] != tsm1.Version {
		return nil, damagedAt(f, 0, "it does not begin as a file of version %d does", tsm1.Version), nil
	}
	if _, err := f.ReadAt(fixed[:], size-footerSize); err != nil {
		return nil, damagedAt(f, size-footerSize, "%v", err), nil
	}
	start, end := int64(binary.BigEndian.Uint64(fixed[:])), size-footerSize
	if start < headerSize || start >= end {
		return nil, damagedAt(f, end, "there is no index where the end of the file says"), nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, start, end-start), 64<<10)
	return &indexReader{r: r, start: start, at: start, end: end, next: headerSize}, nil, nil
}

func (in *indexReader) read(b []byte) bool {
	n, err := io.ReadFull(in.r, b)
	in.at += int64(n)
	return err == nil
}

// key reads a key, the type of its blocks, and how many entries follow.
func (in *indexReader) key() (key []byte, typ byte, count int, ok bool) {
	fixed := in.buf[:3]
	if !in.read(fixed[:2]) {
		return nil, 0, 0, false
	}
	key = make([]byte, binary.BigEndian.Uint16(fixed))
	if !in.read(key) || !in.read(fixed) {
		return nil, 0, 0, false
	}
	return key, fixed[0], int(binary.BigEndian.Uint16(fixed[1:])), true
}

func (in *indexReader) entry() (e tsm1.IndexEntry, ok bool) {
	b := in.buf[:]
	if !in.read(b) {
		return e, false
	}
	return tsm1.IndexEntry{
		MinTime: int64(binary.BigEndian.Uint64(b)), MaxTime: int64(binary.BigEndian.Uint64(b[8:])),
		Offset: int64(binary.BigEndian.Uint64(b[16:])), Size: binary.BigEndian.Uint32(b[24:]),
	}, true
}

// pass goes on behind the block of an entry. It is false when that block does not begin where the one before it ends.
func (in *indexReader) pass(e tsm1.IndexEntry) bool {
	if e.Offset != in.next || e.Size <= checksumSize || e.Offset+int64(e.Size) > in.start {
		return false
	}
	in.next = e.Offset + int64(e.Size)
	return true
}
