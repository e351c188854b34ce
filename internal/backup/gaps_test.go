package backup

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A folder has a gap where the newest backup that says something of a shard lacked some of it.
func TestFolderSaysWhatItsNewestBackupsLack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(shard uint64, modified int64, incomplete string) Entry {
		return Entry{
			Database: "db", Policy: "rp", ShardID: shard, LastModified: modified, FileName: "f", Incomplete: incomplete,
		}
	}
	gap := func(shard uint64, reason string) Gap {
		return Gap{Database: "db", Policy: "rp", ShardID: shard, Reason: reason}
	}
	inRange := file(6, 3, "")
	inRange.Partial = true
	for name, m := range map[string]*Manifest{
		"1": {
			Files:   []Entry{file(1, 1, ""), file(2, 1, ""), file(3, 1, "hints"), file(6, 1, "hints")},
			Missing: []Gap{gap(4, "away"), gap(5, "away")},
		},
		"2": {Files: []Entry{file(2, 2, "hints"), file(3, 2, ""), file(4, 2, "")}, Missing: []Gap{gap(1, "away")}},
		"3": {Files: []Entry{inRange}},
	} {
		m.Meta.FileName = "meta"
		if err := m.Save(filepath.Join(dir, name+".manifest")); err != nil {
			t.Fatal(err)
		}
	}
	s, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Of shard 2 the whole file, though it is older.
	want := []Entry{file(1, 1, ""), file(2, 1, ""), file(3, 2, ""), file(4, 2, ""), inRange}
	if d := cmp.Diff(want, s.Shards); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Gap{gap(1, "away"), gap(2, "hints"), gap(5, "away"), gap(6, "hints")}, s.Gaps); d != "" {
		t.Error(d)
	}
	if s, err = LoadManifest(filepath.Join(dir, "2.manifest")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Gap{gap(1, "away"), gap(2, "hints")}, s.Gaps); d != "" {
		t.Error(d)
	}
}
