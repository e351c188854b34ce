package handoff

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Segments of influxdb-cluster end with the position of the first entry that is due.
func TestQueuesOfInfluxDBClusterThatHaveEntriesAreFound(t *testing.T) {
	t.Parallel()
	segment := func(entries string, due uint64) string {
		return string(binary.BigEndian.AppendUint64([]byte(entries), due))
	}
	dir := t.TempDir()
	for path, content := range map[string]string{
		"2/10/1":           segment("", 0),
		"2/11/1":           segment("entries", 0),
		"2/12/1":           segment("entries", 7),
		"3/11/1":           segment("entries", 7),
		"3/11/2":           segment("entries", 3),
		"3/12/1":           "",
		"3/13/1":           "cut",
		"3/14/1":           segment("entries", 99), // damaged
		"3/15/00000001.hh": segment("one of ours", 0),
		"3/16/notes.txt":   "text",
		"damaged/1/1":      segment("entries", 0),
	} {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := PeerQueues(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"shard 11 of data node 2", "shard 11 of data node 3", "shard 13 of data node 3", "shard 14 of data node 3",
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		t.Error(diff)
	}
	if got, err := PeerQueues(filepath.Join(dir, "none")); len(got) > 0 || err != nil {
		t.Errorf("a folder that is not there: %v, %v", got, err)
	}
}
