package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"pgregory.net/rapid"

	"concord/internal/bolt/bolttest"
)

// sample makes a file with small and large buckets, with free pages and a value of several pages.
func sample(t testing.TB, keys int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.db")
	db, err := Open(path, 0o600, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	db.NoSync = true
	for round := range 3 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for _, name := range []string{"a", "b"} {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				for i := range keys {
					if name == "b" && i > 2 {
						break
					}
					k := binary.BigEndian.AppendUint64(nil, uint64(i*7919%(keys+1)))
					if round == 2 && i%3 == 0 {
						err = b.Delete(k)
					} else {
						err = b.Put(k, fmt.Appendf(nil, "value %d", i))
					}
					if err != nil {
						return err
					}
				}
				if keys > 100 {
					if err := b.Put([]byte("long"), make([]byte, 9000)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// use reads and changes everything in a file.
func use(db *bbolt.DB) error {
	err := db.Update(func(tx *bbolt.Tx) error {
		var names [][]byte
		if err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			names = append(names, append([]byte(nil), name...))
			return nil
		}); err != nil {
			return err
		}
		for _, name := range names {
			b := tx.Bucket(name)
			if b == nil {
				continue // a value
			}
			n := 0
			var keys [][]byte
			if err := b.ForEach(func(k, v []byte) error {
				if n++; n%2 == 0 && v != nil {
					keys = append(keys, append([]byte(nil), k...))
				}
				return nil
			}); err != nil {
				return err
			}
			for _, k := range keys {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			for i := range 20 {
				err := b.Put(fmt.Appendf(nil, "new %d", i), make([]byte, 300))
				if err != nil && !errors.Is(err, bbolterrors.ErrIncompatibleValue) {
					return err
				}
			}
		}
		_, err := tx.CreateBucketIfNotExists([]byte("another"))
		return err
	})
	if errors.Is(err, bbolterrors.ErrIncompatibleValue) {
		return nil
	}
	return err
}

func TestDamagedFilesAreFound(t *testing.T) {
	t.Parallel()
	whole := sample(t, 500)
	size := os.Getpagesize()
	m, err := readMeta(whole)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := readMeta(whole[size:]); err != nil {
		t.Fatal(err)
	} else if other.tx > m.tx {
		m = other
	}
	root, free := int(m.root)*size, int(m.freelist)*size
	// bucket returns where the root page of the bucket i is stored.
	bucket := func(b []byte, i int) []byte {
		e := root + pageHeader + i*elementSize
		return b[e+int(order.Uint32(b[e+4:]))+int(order.Uint32(b[e+8:])):]
	}
	for name, change := range map[string]func(b []byte) []byte{
		"whole":           func(b []byte) []byte { return b },
		"no bolt file":    func([]byte) []byte { return []byte("something else\n") },
		"zeros":           func(b []byte) []byte { return make([]byte, len(b)) },
		"cut short":       func(b []byte) []byte { return b[:3*size] },
		"a page of zeros": func(b []byte) []byte { clear(b[root : root+size]); return b },
		"a wrong count":   func(b []byte) []byte { order.PutUint16(b[root+10:], 60_000); return b },
		"a page in use by two buckets": func(b []byte) []byte {
			order.PutUint64(bucket(b, 1), order.Uint64(bucket(b, 0)))
			return b
		},
		"a bucket in a circle": func(b []byte) []byte {
			order.PutUint64(bucket(b, 0), m.root)
			return b
		},
		"a free page in use":   func(b []byte) []byte { order.PutUint64(b[free+pageHeader:], m.root); return b },
		"no free list":         func(b []byte) []byte { clear(b[free : free+size]); return b },
		"a page out of bounds": func(b []byte) []byte { order.PutUint64(bucket(b, 0), 1<<40); return b },
	} {
		path := filepath.Join(t.TempDir(), "x.db")
		b := change(append([]byte(nil), whole...))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, 0o600, time.Second)
		if name == "whole" {
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
			continue
		}
		var bad *DamagedError
		if !errors.As(err, &bad) || bad.Path != path {
			t.Errorf("%s: %v", name, err)
			continue
		}
	}
}

// What bbolt writes is never taken for damage, whatever was put and deleted.
func TestFilesOfBboltAreWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		db, err := Open(path, 0o600, time.Second)
		if err != nil {
			rt.Fatal(err)
		}
		defer db.Close()
		db.NoSync = true
		for range rapid.IntRange(1, 12).Draw(rt, "transactions") {
			if err := db.Update(func(tx *bbolt.Tx) error {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "bucket")
				if rapid.IntRange(0, 9).Draw(rt, "drop") == 9 {
					if err := tx.DeleteBucket([]byte(name)); err != nil &&
						!errors.Is(err, bbolterrors.ErrBucketNotFound) {
						return err
					}
				}
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				// Runs of keys, so that whole pages come and go at either end and in between.
				from, n := rapid.IntRange(0, 2000).Draw(rt, "from"), rapid.IntRange(1, 600).Draw(rt, "keys")
				step := rapid.IntRange(1, 7).Draw(rt, "step")
				remove, size := rapid.Bool().Draw(rt, "delete"), rapid.SampledFrom([]int{0, 10, 100, 3000}).Draw(rt,
					"size")
				for i := range n {
					k := fmt.Appendf(nil, "%0*d", 4+i%3, from+i*step)
					if remove {
						err = b.Delete(k)
					} else {
						err = b.Put(k, make([]byte, size))
					}
					if err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				rt.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				rt.Fatal(err)
			}
			if err := verify(b); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// A file of which the last transaction's meta page is torn has the transaction before.
func TestTornMetaPageIsNoDamage(t *testing.T) {
	t.Parallel()
	b := sample(t, 3)
	for i := range 2 {
		torn := append([]byte(nil), b...)
		torn[i*os.Getpagesize()+pageHeader+50] ^= 1
		if err := verify(torn); err != nil {
			t.Errorf("meta page %d: %v", i, err)
		}
	}
}

func TestFileOfAnotherVersionIsNoDamage(t *testing.T) {
	t.Parallel()
	b := sample(t, 3)
	for i := range 2 {
		b[i*os.Getpagesize()+pageHeader+4] = 9
	}
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, bolttest.Damage(b, 0, nil, uint32(len(b)), true), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, 0o600, time.Second); !errors.Is(err, bbolterrors.ErrVersionMismatch) {
		t.Errorf("got %v", err)
	}
}

func TestOpenFileIsInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(path, 0o600, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(path, 0o600, 50*time.Millisecond); !errors.Is(err, bbolterrors.ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

// Whatever a file holds: it is refused, or can be used.
func FuzzOpen(f *testing.F) {
	files := [][]byte{sample(f, 3), sample(f, 600)}
	dir := f.TempDir()
	f.Add(uint8(0), uint32(0), []byte(nil), uint32(1<<31), true)
	f.Add(uint8(1), uint32(4096+pageHeader+16), []byte{3}, uint32(1<<31), true)
	f.Add(uint8(1), uint32(2*4096+8), []byte{2, 0, 255, 255}, uint32(1<<31), true)
	f.Add(uint8(1), uint32(3*4096+16), []byte{1, 0, 0, 0, 255, 255, 255, 255}, uint32(5*4096), false)
	for page := range uint32(16) {
		f.Add(uint8(1), page*4096+10, []byte{7}, uint32(1<<31), true)
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint32, patch []byte, end uint32, seal bool) {
		path := filepath.Join(dir, "x.db")
		if err := os.WriteFile(path, bolttest.Damage(files[int(which)%len(files)], at, patch, end, seal), 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, 0o600, time.Second)
		if err != nil {
			return
		}
		db.NoSync = true
		if err := use(db); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(b); err != nil {
			t.Fatalf("after use: %v", err)
		}
	})
}
