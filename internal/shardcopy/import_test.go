package shardcopy

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/drops"
)

// changed is a tar whose entries fn changes.
func changed(t *testing.T, archive []byte, fn func(h *tar.Header, data []byte) []byte) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(archive)), tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		data, rerr := io.ReadAll(r)
		if err = errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		data = fn(h, data)
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// TestImportRefusesDamagedFiles flips each byte of the blocks of a file. No checksum of the whole tar is looked at.
func TestImportRefusesDamagedFiles(t *testing.T) {
	t.Parallel()
	whole := onePoint(t)
	dst := mustStore(t)
	size := 0
	changed(t, whole, func(_ *tar.Header, data []byte) []byte { size = len(data); return data })
	// The index of one key ends the file: its length, the key, type and count, an entry and the footer.
	blocks := size - (2 + len("m,host=a#!~#v") + 3 + 28 + 8)
	for at := range blocks {
		err := importInto(t, dst, 9, changed(t, whole, func(_ *tar.Header, data []byte) []byte {
			data[at] ^= 1
			return data
		}))
		if err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	if n := series(t, dst, 9); n != 0 {
		t.Errorf("the shard has %d series of damaged files", n)
	}
	if err := importInto(t, dst, 9, bytes.NewReader(whole)); err != nil || series(t, dst, 9) != 1 {
		t.Errorf("the whole file: %v, %d series", err, series(t, dst, 9))
	}
	if left, err := filepath.Glob(filepath.Join(dst.Shard(9).Path(), "import-*")); err != nil || len(left) > 0 {
		t.Errorf("the import left %v, %v", left, err)
	}
}

func TestImportRefusesOddEntries(t *testing.T) {
	t.Parallel()
	whole := onePoint(t)
	for name, kind := range map[string]byte{
		"a symbolic link": tar.TypeSymlink, "a link": tar.TypeLink, "a fifo": tar.TypeFifo, "a device": tar.TypeChar,
	} {
		dst := mustStore(t)
		err := importInto(t, dst, 9, changed(t, whole, func(h *tar.Header, _ []byte) []byte {
			h.Typeflag, h.Linkname = kind, "/etc/passwd"
			return nil
		}))
		if err == nil || !strings.Contains(err.Error(), "neither a file nor a folder") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What the engine itself puts beside the files of points, or a copy of its folder has.
	dst := mustStore(t)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []*tar.Header{
		{Name: "db/rp/7/index/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "db/rp/7/fields.idx", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := importInto(t, dst, 9, &out); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dst.Shard(9).Path()); err != nil {
		t.Error(err)
	}
}

// The engine kept the lock of a shard for as long as its files came: nobody could write to it or read it, and what asks
// all shards waited.
func TestShardIsOpenWhileItsFilesCome(t *testing.T) {
	t.Parallel()
	dst := mustStore(t)
	store := drops.New(dst, nil)
	from, to := io.Pipe()
	imported := make(chan error, 1)
	go func() { imported <- Import(t.Context(), store, "db", "rp", 9, from) }()
	whole := onePoint(t)
	if _, err := to.Write(whole[:700]); err != nil { // some of the first file
		t.Fatal(err)
	}
	if err := dst.WriteToShard(tsdb.WriteContext{}, 9, nil); err != nil {
		t.Errorf("nobody can write to it: %v", err)
	}
	if n := series(t, dst, 9); n != 0 {
		t.Errorf("it has %d series", n)
	}
	if _, err := to.Write(whole[700:]); err != nil {
		t.Fatal(err)
	}
	to.Close()
	if err := <-imported; err != nil || series(t, dst, 9) != 1 {
		t.Errorf("%v, %d series", err, series(t, dst, 9))
	}
}

func TestNothingIsImportedIntoAShardThatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*testing.T, *drops.Store) error
		want   string
	}{
		"written to": {func(t *testing.T, s *drops.Store) error {
			mustWrite(t, s.Store, 9, "m,host=new v=1 1")
			return nil
		}, "not empty"},
		"dropped": {func(_ *testing.T, s *drops.Store) error { return s.DeleteDatabase("db", 0) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := drops.New(mustStore(t), nil)
			from, to := io.Pipe()
			imported := make(chan error, 1)
			go func() { imported <- Import(t.Context(), store, "db", "rp", 9, from) }()
			whole := onePoint(t)
			if _, err := to.Write(whole[:700]); err != nil {
				t.Fatal(err)
			}
			if err := tt.change(t, store); err != nil {
				t.Fatal(err)
			}
			to.Write(whole[700:])
			to.Close()
			if err := <-imported; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it is imported: %v", err)
			}
		})
	}
}

// Files of which two have a field in different types make no shard.
func TestShardIsOpenWhenItCannotBeWhatCame(t *testing.T) {
	t.Parallel()
	var floats strings.Builder // more series than the engine lists at a time
	for i := range 10_001 {
		fmt.Fprintf(&floats, "m,host=%05d v=1 1\n", i)
	}
	var both bytes.Buffer
	w := tar.NewWriter(&both)
	for i, lines := range []string{floats.String(), "m,host=z v=1i 1"} {
		src := mustStore(t)
		mustWrite(t, src, 7, lines)
		var one bytes.Buffer
		if err := Export(src, 7, Range{}, &one); err != nil {
			t.Fatal(err)
		}
		changed(t, one.Bytes(), func(h *tar.Header, data []byte) []byte {
			h.Name = fmt.Sprintf("db/rp/7/00000000%d-000000001.tsm", i+1)
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			return data
		})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		dst := mustStore(t)
		dst.EngineOptions.IndexVersion = index
		store := drops.New(dst, nil)
		if err := Import(t.Context(), store, "db", "rp", 9, bytes.NewReader(both.Bytes())); err == nil {
			t.Fatalf("%s: a field has two types", index)
		}
		if n := series(t, dst, 9); n != 0 {
			t.Errorf("%s: the shard has %d series of what could not be opened", index, n)
		}
		if err := Import(t.Context(), store, "db", "rp", 9, bytes.NewReader(onePoint(t))); err != nil {
			t.Errorf("%s: the next import: %v", index, err)
		}
		if n := series(t, dst, 9); n != 1 {
			t.Errorf("%s: %d series, want the one of the next import", index, n)
		}
	}
}

// A shard of which all points were deleted has their files and tombstones still, and an index of its fields.
func TestImportIntoAShardOfWhichAllIsDeleted(t *testing.T) {
	t.Parallel()
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		dst := mustStore(t)
		dst.EngineOptions.IndexVersion = index
		mustWrite(t, dst, 9, "m,host=a v=1,old=1 1\nm,host=b v=1 1")
		if err := flush(dst, 9); err != nil {
			t.Fatal(err)
		}
		mustDelete(t, dst, "host = 'a' OR host = 'b'")
		if n := series(t, dst, 9); n != 0 {
			t.Fatalf("%s: %d series are left", index, n)
		}
		if err := importInto(t, dst, 9, bytes.NewReader(onePoint(t))); err != nil {
			t.Fatal(err)
		}
		if n := series(t, dst, 9); n != 1 {
			t.Errorf("%s: %d series, want the one of the files", index, n)
		}
		var out bytes.Buffer
		if err := Export(dst, 9, Range{}, &out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(out.Bytes(), []byte("m,host=a#!~#v")) {
			t.Errorf("%s: the point of the files is hidden by what was deleted before", index)
		}
	}
}
