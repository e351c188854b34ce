package scrub

import (
	"bufio"
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
