package ctl_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newBackupSource is a meta node of one shard, which changed at the given time.
func newBackupSource(t *testing.T, content string, modified *int64) (addr string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/backup/plan":
			fmt.Fprintf(w,
				`[{"shard":7,"database":"db","policy":"rp","node":"data1:8088","lastModified":%d,"size":1288490189}]`,
				*modified)
		case "/backup/meta":
			io.WriteString(w, "meta")
		case "/backup/shard":
			io.WriteString(w, content)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestEstimateNeedsNoFolder(t *testing.T) {
	t.Parallel()
	modified := int64(1)
	out, err := run(t, newBackupSource(t, "", &modified), "backup", "-estimate")
	if err != nil || !strings.Contains(out, "1.2 GiB") || !strings.Contains(out, "1288490189 bytes") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBackupInBlocksIsOneGzipFile(t *testing.T) {
	t.Parallel()
	content, modified, dir := strings.Repeat("abcdefgh", 40_000), int64(1), t.TempDir()
	profile := filepath.Join(t.TempDir(), "cpu")
	addr := newBackupSource(t, content, &modified)
	_, err := run(t, addr, "backup", "-gzipBlockSize", "32768", "-gzipBlockCount", "3", "-cpuprofile", profile, dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("the profile: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.s7.tar.gz"))
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != content {
		t.Errorf("%d bytes, want %d: %v", len(got), len(content), err)
	}
}

func TestStalenessThresholdLeavesRecentChangesOut(t *testing.T) {
	t.Parallel()
	modified, dir := int64(1), t.TempDir()
	addr := newBackupSource(t, "x", &modified)
	for _, tt := range []struct {
		at       int64
		flags    []string
		backedUp bool
	}{
		{1, nil, true},
		{1, nil, false},
		{1 + 60e9, []string{"-staleness-threshold", "1m"}, false},
		{2 + 60e9, []string{"-staleness-threshold", "1m"}, true},
		{3 + 60e9, nil, true}, // no write is left out by default
	} {
		modified = tt.at
		out, err := run(t, addr, append(append([]string{"backup"}, tt.flags...), dir)...)
		if err != nil || strings.Contains(out, "shard 7") != tt.backedUp {
			t.Errorf("changed at %d, %v: %v\n%s", tt.at, tt.flags, err, out)
		}
	}
}
