package shardcopy

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"concord/internal/rpc"
)

func TestDescribeTellsWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	mustWrite(t, s.Store.Store, 1, "m v=1 1")
	mustWrite(t, s.Store.Store, 2, "m v=1 1")
	dir := filepath.Join(s.Store.Path(), "lost [1]", "rp")
	if err := os.MkdirAll(filepath.Join(dir, "7"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "8.aside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "7", "000000001-000000001.tsm"), make([]byte, 123), 0o644); err != nil {
		t.Fatal(err)
	}
	c, _, err := s.copies.begin(t.Context(), &rpc.CopyRequest{ShardId: 2, Source: "data1:8088"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.copies.end(c)
	resp, err := s.Describe(t.Context(), &rpc.DescribeRequest{Disk: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	slices.SortFunc(resp.Shards, func(a, b *rpc.ShardDescription) int { return cmp.Compare(a.ShardId, b.ShardId) })
	for _, d := range resp.Shards {
		got = append(got, fmt.Sprintf("%d of %s.%s: %s, empty: %t", d.ShardId, d.Database, d.RetentionPolicy, d.State,
			d.Size == 0))
	}
	want := []string{"1 of db.rp: hot, empty: false", "7 of lost [1].rp: not open, empty: false"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
