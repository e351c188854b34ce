package datanode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"concord/internal/meta/client"
)

// A mark of this format must stay readable.
func TestMarkIsAsDocumented(t *testing.T) {
	t.Parallel()
	const golden = "concord 1 cluster 000000000000002a 46924032\n"
	if got := string(encodeMark(42)); got != golden {
		t.Errorf("%q, want %q", got, golden)
	}
	if got, err := decodeMark([]byte(golden)); err != nil || got != 42 {
		t.Errorf("%d, %v", got, err)
	}
}

func FuzzMark(f *testing.F) {
	f.Add(encodeMark(42))
	f.Add([]byte("concord 1 cluster 2a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cluster, err := decodeMark(b); err == nil && string(encodeMark(cluster)) != string(b) {
			t.Errorf("%q is taken for cluster %x", b, cluster)
		}
	})
}

func TestStartChecksWhoseShardsThereAre(t *testing.T) {
	t.Parallel()
	const (
		earlier = `{"node-id":1,"cluster-id":42,"meta-servers":["127.0.0.1:1"]}`
		named   = `{"node-id":1,"cluster-id":42,"meta-servers":["127.0.0.1:1"],"identity":"x"}`
	)
	ours, theirs := string(encodeMark(42)), string(encodeMark(41))
	for name, tc := range map[string]struct {
		identity, mark string
		shards         bool
		refuses        string // empty when the node starts
		marked         uint64 // afterwards
	}{
		"nothing":                              {},
		"shards of nobody":                     {shards: true, refuses: "no cluster of Concord"},
		"shards of a cluster that it left":     {shards: true, mark: ours, marked: 42},
		"a damaged mark":                       {shards: true, mark: "concord?"},
		"a member with an empty disk":          {identity: named, marked: 42},
		"a member":                             {identity: named, shards: true, mark: ours, marked: 42},
		"a member with a damaged mark":         {identity: named, shards: true, mark: "concord?", marked: 42},
		"a member on a server's shards":        {identity: named, shards: true, refuses: "no cluster of Concord"},
		"a member on another's shards":         {identity: named, shards: true, mark: theirs, refuses: "another", marked: 41},
		"a member of an earlier version":       {identity: earlier, shards: true, marked: 42},
		"the same on another's shards":         {identity: earlier, shards: true, mark: theirs, refuses: "another", marked: 41},
		"a member with another cluster's mark": {identity: named, mark: theirs, marked: 42},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "[data]") // must not be taken for a pattern
			cfg := NewConfig()
			cfg.Meta.Dir = filepath.Join(dir, "meta")
			cfg.Data.Dir, cfg.Data.WALDir = filepath.Join(dir, "data"), filepath.Join(dir, "wal")
			put := func(path, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tc.identity != "" {
				put(filepath.Join(cfg.Meta.Dir, "node.json"), tc.identity)
			}
			if tc.mark != "" {
				put(filepath.Join(cfg.Data.Dir, markFile), tc.mark)
			}
			if tc.shards {
				put(filepath.Join(cfg.Data.WALDir, "db", "rp", "3", "_00001.wal"), "")
			}
			n := New(cfg, "", zap.NewNop(), Seams{})
			var err error
			if n.Meta, err = client.Open(client.Deps{Dir: cfg.Meta.Dir}); err != nil {
				t.Fatal(err)
			}
			defer n.Meta.Close()
			err = n.folder().keep()
			if (err == nil) != (tc.refuses == "") || err != nil && !strings.Contains(err.Error(), tc.refuses) {
				t.Errorf("the start says %v, want %q", err, tc.refuses)
			}
			if mark, _ := readMark(cfg.Data.Dir); mark != tc.marked {
				t.Errorf("the folder is marked %d, want %d", mark, tc.marked)
			}
			if err == nil && n.Meta.Identity() == "" {
				t.Error("the node has no identity")
			}
		})
	}
}
