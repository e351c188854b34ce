package shardcopy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Files of one generation follow each other by their sequence: one that is made
// anew without what was deleted must not take the place of the next.
func TestTombstonesOfAFileLeaveTheNextFileAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, name := range []string{"000000001-000000004.tsm", "000000001-000000005.tsm"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		w, err := tsm1.NewTSMWriter(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"gone", "kept"} {
			err = errors.Join(err, w.Write([]byte(key), []tsm1.Value{tsm1.NewValue(int64(i+1), 1.0)}))
		}
		if err = errors.Join(err, w.WriteIndex(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	fs := tsm1.NewFileStore(dir)
	if err := errors.Join(fs.Open(), fs.DeleteRange([][]byte{[]byte("gone")}, 1, 1), fs.Close()); err != nil {
		t.Fatal(err)
	}
	if err := applyTombstones(dir); err != nil {
		t.Fatal(err)
	}
	fs = tsm1.NewFileStore(dir)
	if err := fs.Open(); err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	for key, want := range map[string]int{"kept": 2, "gone": 1} {
		n := 0
		for at := int64(1); at <= 2; at++ {
			values, err := fs.Read([]byte(key), at)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				if v.UnixNano() == at {
					n++
				}
			}
		}
		if n != want {
			t.Errorf("%s: %d points, want %d", key, n, want)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if len(left) != 2 {
		t.Errorf("files: %v", left)
	}
}

// damaged is a stream whose end says that it is not what was sent.
type damaged struct{ io.Reader }

func (d damaged) Read(b []byte) (int, error) {
	n, err := d.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		err = errTorn
	}
	return n, err
}

func TestNothingOfAStreamWithoutItsChecksumIsTaken(t *testing.T) {
	t.Parallel()
	src, dst := mustStore(t), mustStore(t)
	mustWrite(t, src, 7, "m,host=a v=1 1")
	var whole bytes.Buffer
	if err := Export(src, 7, Range{}, &whole); err != nil {
		t.Fatal(err)
	}
	if err := importInto(t, dst, 7, damaged{bytes.NewReader(whole.Bytes())}); !errors.Is(err, errTorn) {
		t.Errorf("%v", err)
	}
	if n := series(t, dst, 7); n != 0 {
		t.Errorf("%d series came", n)
	}
	if err := importInto(t, dst, 7, bytes.NewReader(whole.Bytes())); err != nil || series(t, dst, 7) != 1 {
		t.Errorf("again, whole: %v", err)
	}
}
