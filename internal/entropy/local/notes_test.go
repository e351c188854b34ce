package local

import (
	"os"
	"path/filepath"
	"testing"

	"concord/internal/copystate"
)

// Notes about damage: of a torn one it is known that there is damage, and no more.
func FuzzDamagedNotes(f *testing.F) {
	b, err := encodeDamage(damage{Message: "a block", Aside: true})
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	f.Add("7", b)
	f.Add("7", b[:len(b)-1])
	f.Add("7.tmp", []byte{})
	f.Add("18446744073709551616", []byte("damage.v1 00000000\n{}"))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		path := filepath.Join(dir, filepath.Base(name))
		if os.WriteFile(path, b, 0o600) != nil {
			return // not a name
		}
		defer os.Remove(path)
		s := &damagedShards{dir: dir}
		all, err := s.all()
		if err != nil {
			t.Fatal(err)
		}
		for id, message := range all {
			if message == "" {
				t.Fatalf("shard %d is damaged, and nobody is told", id)
			}
			d, ok, err := s.of(id)
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			again, err := encodeDamage(d)
			if err != nil {
				t.Fatal(err)
			}
			if decodeDamage(again) != d {
				t.Fatalf("%v became %v", d, decodeDamage(again))
			}
			if err := s.remove(id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A shard that began is never whole, whatever its file holds.
func FuzzBeginnings(f *testing.F) {
	dir := f.TempDir()
	for _, text := range []string{"17", "", "0", "-1", "99999999999999999999", "1\n"} {
		f.Add(uint64(7), []byte(text))
	}
	f.Fuzz(func(t *testing.T, id uint64, b []byte) {
		s := &beginnings{dir: dir}
		if err := os.WriteFile(s.path(id), b, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(s.path(id))
		if s.of(id) == copystate.FoundEqual {
			t.Fatalf("with %q the shard counts as whole", b)
		}
		if err := s.forget(id); err != nil {
			t.Fatal(err)
		}
		if began := (&beginnings{dir: dir}).of(id); began != copystate.FoundEqual {
			t.Fatalf("removed, and its beginning is %d", began)
		}
	})
}
