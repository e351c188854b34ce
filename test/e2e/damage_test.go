//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/meta/wire"
	"concord/test/process"
)

const damageQuery = "SELECT count(v), sum(v), first(v), last(v) FROM m GROUP BY s"

// TestDamagedFilesAreHealed damages files of one node while it is down, in all ways in which disks do it, and has
// the cluster heal them; what is on one node alone is reported and left as it is.
func TestDamagedFilesAreHealed(t *testing.T) {
	const (
		scrub  = 10 * time.Second
		series = 8
	)
	ctx := context.Background()
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"data":         {"cache-snapshot-write-cold-duration": "1s"},
		"anti-entropy": {"scrub-interval": scrub.String()},
	}})
	one := p.Data[0].Client()
	begin := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -10)
	write := func(db string, replicas, days int) {
		t.Helper()
		if _, err := one.Query(ctx, "", fmt.Sprintf(
			`CREATE DATABASE %s WITH DURATION INF REPLICATION %d SHARD DURATION 1d NAME "autogen"`, db, replicas,
		)); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for day := range days {
			var lines []byte
			for i := range 40_000 {
				lines = fmt.Appendf(lines, "m,s=s%d v=%d %d\n", i%series, r.IntN(1<<40),
					begin.AddDate(0, 0, day).Add(time.Duration(i)*time.Second).UnixNano())
			}
			if err := one.Write(ctx, db, "all", lines); err != nil {
				t.Fatal(err)
			}
		}
	}
	answer := func(n *process.Node, db string) [][]any {
		t.Helper()
		rows, err := n.Client().Query(ctx, db, damageQuery)
		if err != nil {
			t.Fatalf("query %s: %v", n.Name, err)
		}
		return rows
	}
	write("three", 3, 5)
	write("single", 1, 1)
	want, wantSingle := answer(p.Data[0], "three"), answer(p.Data[0], "single")

	shards := ownedShards(t, p)
	single := shards["single"][0]
	sick := p.Data[slices.IndexFunc(p.Data, func(n *process.Node) bool { return n.TCP == single.Owners[0].TCPAddr })]
	files := func(db string, id uint64, ext string) []string {
		names, _ := filepath.Glob(filepath.Join(sick.Dir, "data", db, "autogen", strconv.FormatUint(id, 10), "*."+ext))
		return names
	}
	p.Await("all data is in files", func() bool {
		left := 0
		for db, of := range shards {
			for _, sh := range of {
				if owned := db == "three" || sh.Owners[0].TCPAddr == sick.TCP; owned && len(files(db, sh.ID, "tsm")) == 0 {
					left++
				}
			}
		}
		return left == 0
	})
	p.Ctl("entropy", "pause") // so that what is found can be looked at
	sick.Stop(syscall.SIGTERM)

	ways := []struct {
		name   string
		damage func(f *os.File, size int64) error
	}{
		{"flipped bits", func(f *os.File, _ int64) error {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, 200); err != nil {
				return err
			}
			_, err := f.WriteAt([]byte{b[0] ^ 4}, 200)
			return err
		}},
		{"a zeroed page", func(f *os.File, _ int64) error { _, err := f.WriteAt(make([]byte, 4096), 8192); return err }},
		{"cut in the middle", func(f *os.File, size int64) error { return f.Truncate(size / 2) }},
		{"the page of its index zeroed", func(f *os.File, size int64) error {
			end := make([]byte, 8)
			if _, err := f.ReadAt(end, size-8); err != nil {
				return err
			}
			at := int64(binary.BigEndian.Uint64(end))
			_, err := f.WriteAt(make([]byte, min(4096, size-8-at)), at)
			return err
		}},
		{"empty", func(f *os.File, _ int64) error { return f.Truncate(0) }},
	}
	damaged := make(map[uint64][]byte) // what the file of each shard is then
	harm := func(path string, damage func(*os.File, int64) error) []byte {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil {
			err = damage(f, info.Size())
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, sh := range shards["three"] {
		path := files("three", sh.ID, "tsm")[0]
		damaged[sh.ID] = harm(path, ways[i].damage)
		t.Logf("shard %d, %s: %s", sh.ID, filepath.Base(path), ways[i].name)
	}
	singleFile := files("single", single.ID, "tsm")[0]
	whole, err := os.ReadFile(singleFile)
	if err != nil {
		t.Fatal(err)
	}
	left := harm(singleFile, ways[0].damage)

	sick.Start()
	sick.AwaitUp()
	var shown string
	p.Await("all damage is shown", func() bool {
		shown = p.Ctl("entropy", "show")
		return strings.Count(shown, " corrupt: ") == len(damaged)+1
	})
	t.Logf("entropy show:\n%s", shown)
	for _, sh := range append(shards["three"], single) {
		if want := fmt.Sprintf("Shard %d corrupt: %s: 0", sh.ID, sick.TCP); !strings.Contains(shown, want) {
			t.Errorf("show does not say %q", want)
		}
	}
	out, err := p.TryCtl("entropy", "diff", fmt.Sprint(shards["three"][0].ID))
	if err != nil || !strings.Contains(out, "Not compared: the copy on "+sick.TCP+" is damaged: ") {
		t.Errorf("entropy diff: %v\n%s", err, out)
	}
	for _, cmd := range []string{"diff", "repair"} {
		_, err := p.TryCtl("entropy", cmd, fmt.Sprint(single.ID))
		t.Logf("entropy %s of the only copy: %v", cmd, err)
		if err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), sick.TCP) {
			t.Errorf("entropy %s of the only copy: %v", cmd, err)
		}
	}

	p.Ctl("entropy", "resume")
	p.Await("what others have is healed", func() bool {
		s, _, err := one.EntropyStatus(ctx)
		return err == nil && len(s.Shards) == 1 && s.Shards[0].Database == "single" && len(s.Queued)+len(s.Processing) == 0
	})
	t.Logf("entropy repairs:\n%s", p.Ctl("entropy", "repairs"))
	for id, was := range damaged {
		kept, _ := filepath.Glob(filepath.Join(sick.Dir, "meta", "entropy", "aside", fmt.Sprintf("%d-*", id), "0*"))
		if !slices.ContainsFunc(kept, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && bytes.Equal(b, was)
		}) {
			t.Errorf("shard %d: the damaged file is not among %v", id, kept)
		}
		if bad := files("three", id, "bad"); len(bad) > 0 {
			t.Errorf("shard %d still has %v", id, bad)
		}
	}
	for _, n := range p.Data {
		for _, other := range p.Data {
			if other != n {
				other.Stop(syscall.SIGTERM)
			}
		}
		if d := cmp.Diff(want, answer(n, "three")); d != "" {
			t.Errorf("%s alone answers otherwise:\n%s", n.Name, d)
		}
		for _, other := range p.Data {
			if other != n {
				other.Start()
				other.AwaitUp()
			}
		}
	}

	answers := func() {
		t.Helper()
		p.Await("all nodes hear each other again", func() bool {
			return !slices.ContainsFunc(p.Data, func(n *process.Node) bool {
				_, err := n.Client().Query(ctx, "single", damageQuery)
				return err != nil
			})
		})
	}

	// The only copy: reported, readable where it is sound, and left as it is; nothing goes round in circles.
	var s struct {
		Shards []struct{ Status, Message string }
	}
	p.Await("the only copy is shown as damaged after a restart", func() bool {
		_, raw, err := one.EntropyStatus(ctx)
		return err == nil && json.Unmarshal(raw, &s) == nil && len(s.Shards) == 1
	})
	if m := s.Shards[0].Message; s.Shards[0].Status != "corrupt" ||
		!strings.HasPrefix(m, sick.TCP+": "+filepath.Base(singleFile)) {
		t.Errorf("%+v", s.Shards)
	}
	answers()
	var other []string
	for i := range series {
		rows, err := sick.Client().Query(ctx, "single",
			fmt.Sprintf("SELECT count(v), sum(v), first(v), last(v) FROM m WHERE s = 's%d'", i))
		if d := cmp.Diff(wantSingle[i:i+1], rows); d != "" {
			other = append(other, fmt.Sprintf("s%d %v\n%s", i, err, d))
		}
	}
	if t.Logf("answers otherwise: %s", other); len(other) > 1 {
		t.Error("more answers otherwise than the series with the damaged block")
	}
	mark, used := len(sick.Log()), cpu(t, sick)
	at := time.Now()
	process.Poll(2*scrub, func() bool { return false })
	took := time.Since(at)
	said := sick.Log()[mark:]
	t.Logf("log of %s in %v, %v of CPU:\n%s", sick.Name, took, cpu(t, sick)-used, said)
	// one for each time that it is verified
	if n := strings.Count(said, "lvl=warn") + strings.Count(said, "lvl=error"); n > 3 {
		t.Errorf("%d warnings in %v", n, took)
	}
	if got := cpu(t, sick) - used; got > took/4 {
		t.Errorf("%v of CPU in %v of nothing to do", got, took)
	}
	if b, err := os.ReadFile(singleFile); err != nil || !bytes.Equal(b, left) {
		t.Errorf("the damaged file is not as it was: %v", err)
	}

	// The operator brings the file back and says so.
	sick.Stop(syscall.SIGTERM)
	if err := os.WriteFile(singleFile, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	sick.Start()
	sick.AwaitUp()
	p.Ctl("entropy", "check", fmt.Sprint(single.ID))
	p.Await("the shard is sound again", func() bool {
		s, _, err := one.EntropyStatus(ctx)
		return err == nil && s.Clean()
	})
	answers()
	if d := cmp.Diff(wantSingle, answer(sick, "single")); d != "" {
		t.Errorf("with its file back the shard answers otherwise:\n%s", d)
	}
}

// ownedShards are the shards by database.
func ownedShards(t *testing.T, p *process.Cluster) map[string][]wire.Shard {
	t.Helper()
	var all []wire.Shard
	if err := json.Unmarshal([]byte(p.Ctl("show-shards", "-json")), &all); err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]wire.Shard)
	for _, sh := range all {
		if sh.Database == "three" || sh.Database == "single" {
			out[sh.Database] = append(out[sh.Database], sh)
		}
	}
	if len(out["three"]) != 5 || len(out["single"]) == 0 {
		t.Fatalf("shards %v", out)
	}
	return out
}

// cpu is what a node's process has used of the processors.
func cpu(t *testing.T, n *process.Node) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID()))
	if err != nil {
		t.Skip("no /proc")
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')'):]))
	user, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	system, err := strconv.ParseInt(fields[13], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * (time.Second / 100)
}
