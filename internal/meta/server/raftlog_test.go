package server

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func TestDamagedValuesAreFound(t *testing.T) {
	t.Parallel()
	s := &store{dir: t.TempDir()}
	if err := s.openLog(filepath.Join(s.dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	defer s.log.Close()
	key, entry := []byte("CurrentTerm"), &raft.Log{
		Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte(`{"type":"x"}`),
	}
	mustAll(t, s.log.SetUint64(key, 7), s.log.StoreLog(entry), s.log.verify())
	if v, err := s.log.GetUint64(key); err != nil || v != 7 {
		t.Errorf("%d, %v", v, err)
	}
	if entry.Extensions != nil {
		t.Error("an entry of Raft was changed")
	}
	// As an earlier version stored them.
	mustAll(t, s.log.BoltStore.SetUint64(key, 8), s.log.BoltStore.StoreLog(entry), s.log.verify())
	if v, err := s.log.GetUint64(key); err != nil || v != 8 {
		t.Errorf("%d, %v", v, err)
	}
	for name, bad := range map[string]*raft.Log{
		"another command": {
			Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte(`{"type":"y"}`), Extensions: sum(entry),
		},
		"another term":     {Index: 1, Term: 2, Type: raft.LogCommand, Data: entry.Data, Extensions: sum(entry)},
		"no command":       {Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte("{")},
		"no type":          {Index: 1, Term: 1, Type: 77},
		"no configuration": {Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte{0xff, 1, 2}},
	} {
		mustAll(t, s.log.BoltStore.StoreLog(bad))
		if err := s.log.verify(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	mustAll(t, s.log.Set(key, []byte{0, 0, 0, 0, 0, 0, 0, 8, 1, 2, 3, 4}))
	if v, err := s.log.GetUint64(key); err == nil {
		t.Errorf("a damaged number is %d", v)
	}
}

func mustAll(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
