package scrub

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
)

// The engine's file format, see tsdb/engine/tsm1/writer.go.
const (
	magic          = 0x16D116D1
	headerSize     = 5 // magic and version
	footerSize     = 8 // offset of the index
	indexEntrySize = 28
	checksumSize   = 4

	tombstoneExt = "." + tsm1.TombstoneFileExtension
	tsmExt       = "." + tsm1.TSMFileExtension
	badExt       = "." + tsm1.BadTSMFileExtension
)

// Verify reads all files of a shard's folder from disk, and returns what is damaged. It maps
// nothing into memory: a file that is too short is damage, and no fault. wait is called before
// each read with its size. Files that are removed meanwhile are left out.
func Verify(ctx context.Context, dir string, wait func(context.Context, int) error) ([]*tsmfile.Damage, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*tsmfile.Damage
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		var found []*tsmfile.Damage
		switch filepath.Ext(n.Name()) {
		case tsmExt:
			found, err = verifyFile(ctx, path, wait)
		case tombstoneExt:
			found, err = verifyTombstones(path)
		case badExt:
			found = []*tsmfile.Damage{unopened(path)}
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// block is one that the index of a file names.
type block struct {
	key []byte
	typ byte
	tsm1.IndexEntry
}

// verifyFile returns the damage of a file, of the index up to the first.
func verifyFile(
	ctx context.Context, path string, wait func(context.Context, int) error,
) (found []*tsmfile.Damage, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf []byte
	damage, err := eachBlock(f, func(b block) error {
		if err := wait(ctx, int(b.Size)); err != nil {
			return err
		}
		var d *tsmfile.Damage
		if buf, d, err = readBlock(f, b, buf); err != nil {
			return err
		}
		if d != nil {
			found = append(found, d)
		}
		return nil
	})
	if damage != nil {
		found = append(found, damage)
	}
	return found, err
}

// readBlock reads a block into buf, without its checksum, and checks it.
func readBlock(f *os.File, b block, buf []byte) ([]byte, *tsmfile.Damage, error) {
	damaged := func(reason string, args ...any) *tsmfile.Damage {
		return &tsmfile.Damage{
			File: filepath.Base(f.Name()), Offset: b.Offset, Key: string(b.key), Reason: fmt.Sprintf(reason, args...),
		}
	}
	if cap(buf) < int(b.Size) {
		buf = make([]byte, b.Size)
	}
	buf = buf[:b.Size]
	if _, err := f.ReadAt(buf, b.Offset); errors.Is(err, io.EOF) {
		return buf, damaged("the file ends in it"), nil
	} else if err != nil {
		return buf, damaged("%v", err), nil // the disk cannot read it
	}
	sum, data := binary.BigEndian.Uint32(buf), buf[checksumSize:]
	if crc32.ChecksumIEEE(data) != sum {
		return buf, damaged("its checksum is wrong"), nil
	}
	if typ, err := tsm1.BlockType(data); err != nil || typ != b.typ {
		return buf, damaged("it has type %d, and the index says %d", data[0], b.typ), nil
	}
	return buf, nil, nil
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

// verifyTombstones reads a file of tombstones as the engine does.
func verifyTombstones(path string) (found []*tsmfile.Damage, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil { // the engine trusts what it reads
			found, err = []*tsmfile.Damage{{File: filepath.Base(path), Offset: -1, Reason: fmt.Sprint(r)}}, nil
		}
	}()
	if reason, err := longKey(path); err != nil {
		return nil, err
	} else if reason != "" {
		return []*tsmfile.Damage{{File: filepath.Base(path), Reason: reason}}, nil
	}
	t := tsm1.NewTombstoner(strings.TrimSuffix(path, tombstoneExt)+tsmExt, nil)
	if err := t.Walk(func(tsm1.Tombstone) error { return nil }); err != nil {
		return []*tsmfile.Damage{{File: filepath.Base(path), Offset: -1, Reason: err.Error()}}, nil
	}
	return nil, nil
}

// The versions of files of tombstones that have lengths in them, see tsdb/engine/tsm1/tombstone.go.
const (
	tombstonesPlain  = 0x1502
	tombstonesZipped = 0x1503 // one gzip stream
	tombstonesMany   = 0x1504 // gzip streams behind each other
)

// longKey tells of a key in a file of tombstones that is longer than keys can be: the engine would take as much
// memory, up to 4 GB. All else that is wrong is for the engine to find.
func longKey(path string) (reason string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var version [4]byte
	if _, err := io.ReadFull(f, version[:]); err != nil {
		return "", nil
	}
	in := bufio.NewReader(f)
	switch binary.BigEndian.Uint32(version[:]) {
	case tombstonesPlain:
		return longKeyIn(in), nil
	case tombstonesZipped, tombstonesMany:
		z, err := gzip.NewReader(in)
		for err == nil {
			z.Multistream(false)
			if reason = longKeyIn(z); reason != "" {
				return reason, nil
			}
			err = z.Reset(in)
		}
	}
	return "", nil
}

// longKeyIn reads tombstones: the length of a key, the key, two times.
func longKeyIn(in io.Reader) string {
	var length [4]byte
	for {
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return ""
		}
		n := binary.BigEndian.Uint32(length[:])
		if n > math.MaxUint16 {
			return fmt.Sprintf("a key has %d bytes", n)
		}
		if _, err := io.CopyN(io.Discard, in, int64(n)+16); err != nil {
			return ""
		}
	}
}
