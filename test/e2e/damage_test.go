//go:build e2e

package e2e

import (
	"bytes"
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

	"concord/internal/entropy/api"
	"concord/internal/meta/wire"
	"concord/test/process"
)

const damageQuery = "SELECT count(v), sum(v), first(v), last(v) FROM m GROUP BY s"

// sickbed is a cluster in which files of one node get damaged. Database three has a copy on each node, and single has
// one copy of its shard, on the sick node.
type sickbed struct {
	*process.Cluster
	begin            time.Time // of the points' times
	sick             *process.Node
	shards           map[string][]wire.Shard // by database
	single           wire.Shard
	singleFile       string
	whole, harmed    []byte            // that file before and after the damage
	damaged          map[uint64][]byte // what the file of each shard of three is then
	want, wantSingle [][]any           // answers before the damage
}

const (
	scrubEvery    = 10 * time.Second
	damagedSeries = 8 // in each shard
)

// TestDamagedFilesAreHealed damages files of one node while it is down, in all ways in which disks do it, and has
// the cluster heal them; what is on one node alone is reported and left as it is. Each step works on what those before
// it left.
func TestDamagedFilesAreHealed(t *testing.T) {
	t.Parallel()
	b := &sickbed{
		Cluster: process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
			"data":         {"cache-snapshot-write-cold-duration": "1s"},
			"anti-entropy": {"scrub-interval": scrubEvery.String()},
		}}),
		begin:   time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -10),
		damaged: make(map[uint64][]byte),
	}
	for _, step := range []struct {
		name string
		run  func(*sickbed, *testing.T)
	}{
		{"all data is in files", (*sickbed).fill},
		{"files of one node are damaged while it is down", (*sickbed).damage},
		{"all damage is shown", (*sickbed).shown},
		{"what others have is healed", (*sickbed).healed},
		{"each node alone answers as before", (*sickbed).alone},
		{"the only copy is reported, and read where it is sound", (*sickbed).onlyCopy},
		{"the only copy is left as it is, and keeps nobody busy", (*sickbed).quiet},
		{"the operator brings the file back", (*sickbed).broughtBack},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(b, t) }) {
			t.Fatal("the steps after this one need it")
		}
	}
}

// write makes a database, and writes a shard of it for each day.
func (b *sickbed) write(t *testing.T, db string, replicas, days int) {
	t.Helper()
	one := b.Data[0].Client()
	if _, err := one.Query(t.Context(), "", fmt.Sprintf(
		`CREATE DATABASE %s WITH DURATION INF REPLICATION %d SHARD DURATION 1d NAME "autogen"`, db, replicas,
	)); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for day := range days {
		var lines []byte
		for i := range 40_000 {
			lines = fmt.Appendf(lines, "m,s=s%d v=%d %d\n", i%damagedSeries, r.IntN(1<<40),
				b.begin.AddDate(0, 0, day).Add(time.Duration(i)*time.Second).UnixNano())
		}
		if err := one.Write(t.Context(), db, "all", lines); err != nil {
			t.Fatal(err)
		}
	}
}

// answer is what a node answers about a database.
func (b *sickbed) answer(t *testing.T, n *process.Node, db string) [][]any {
	t.Helper()
	rows, err := n.Client().Query(t.Context(), db, damageQuery)
	if err != nil {
		t.Fatalf("query %s: %v", n.Name, err)
	}
	return rows
}

// files are those of the sick node's copy of a shard.
func (b *sickbed) files(db string, id uint64, ext string) []string {
	names, _ := filepath.Glob(filepath.Join(b.sick.Dir, "data", db, "autogen", strconv.FormatUint(id, 10), "*."+ext))
	return names
}

// fill writes to both databases, and waits until all points are in files.
func (b *sickbed) fill(t *testing.T) {
	b.write(t, "three", 3, 5)
	b.write(t, "single", 1, 1)
	b.want, b.wantSingle = b.answer(t, b.Data[0], "three"), b.answer(t, b.Data[0], "single")
	b.shards = ownedShards(t, b.Cluster)
	b.single = b.shards["single"][0]
	owner := b.single.Owners[0].TCPAddr
	b.sick = b.Data[slices.IndexFunc(b.Data, func(n *process.Node) bool { return n.TCP == owner })]
	b.Await("all data is in files", func() bool {
		for db, of := range b.shards {
			for _, sh := range of {
				owned := db == "three" || sh.Owners[0].TCPAddr == b.sick.TCP
				if owned && len(b.files(db, sh.ID, "tsm")) == 0 {
					return false
				}
			}
		}
		return true
	})
}

// ways are those in which disks damage a file.
var ways = []struct {
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

// harm damages a file, and returns what is in it then.
func harm(t *testing.T, path string, damage func(*os.File, int64) error) []byte {
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

func (b *sickbed) damage(t *testing.T) {
	b.Ctl("entropy", "pause") // so that what is found can be looked at
	b.sick.Stop(syscall.SIGTERM)
	for i, sh := range b.shards["three"] {
		path := b.files("three", sh.ID, "tsm")[0]
		b.damaged[sh.ID] = harm(t, path, ways[i].damage)
		t.Logf("shard %d, %s: %s", sh.ID, filepath.Base(path), ways[i].name)
	}
	b.singleFile = b.files("single", b.single.ID, "tsm")[0]
	var err error
	if b.whole, err = os.ReadFile(b.singleFile); err != nil {
		t.Fatal(err)
	}
	b.harmed = harm(t, b.singleFile, ways[0].damage)
}

func (b *sickbed) shown(t *testing.T) {
	b.sick.Start()
	b.sick.AwaitUp()
	var shown string
	b.Await("all damage is shown", func() bool {
		shown = b.Ctl("entropy", "show")
		return strings.Count(shown, " corrupt: ") == len(b.damaged)+1
	})
	t.Logf("entropy show:\n%s", shown)
	for _, sh := range append(b.shards["three"], b.single) {
		if want := fmt.Sprintf("Shard %d corrupt: %s: 0", sh.ID, b.sick.TCP); !strings.Contains(shown, want) {
			t.Errorf("show does not say %q", want)
		}
	}
	out, err := b.TryCtl("entropy", "diff", fmt.Sprint(b.shards["three"][0].ID))
	if err != nil || !strings.Contains(out, "Not compared: the copy on "+b.sick.TCP+" is damaged: ") {
		t.Errorf("entropy diff: %v\n%s", err, out)
	}
	for _, cmd := range []string{"diff", "repair"} {
		_, err := b.TryCtl("entropy", cmd, fmt.Sprint(b.single.ID))
		t.Logf("entropy %s of the only copy: %v", cmd, err)
		if err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), b.sick.TCP) {
			t.Errorf("entropy %s of the only copy: %v", cmd, err)
		}
	}
}

func (b *sickbed) healed(t *testing.T) {
	b.Ctl("entropy", "resume")
	b.Await("what others have is healed", func() bool {
		s, _, err := b.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && len(s.Shards) == 1 && s.Shards[0].Database == "single" &&
			len(s.Queued)+len(s.Processing) == 0
	})
	t.Logf("entropy repairs:\n%s", b.Ctl("entropy", "repairs"))
	for id, was := range b.damaged {
		aside := filepath.Join(b.sick.Dir, "meta", "entropy", "aside", fmt.Sprintf("%d-*", id), "0*")
		kept, _ := filepath.Glob(aside)
		if !slices.ContainsFunc(kept, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && bytes.Equal(b, was)
		}) {
			t.Errorf("shard %d: the damaged file is not among %v", id, kept)
		}
		if bad := b.files("three", id, "bad"); len(bad) > 0 {
			t.Errorf("shard %d still has %v", id, bad)
		}
	}
}

func (b *sickbed) alone(t *testing.T) {
	for _, n := range b.Data {
		for _, other := range b.Data {
			if other != n {
				other.Stop(syscall.SIGTERM)
			}
		}
		if d := cmp.Diff(b.want, b.answer(t, n, "three")); d != "" {
			t.Errorf("%s alone answers otherwise:\n%s", n.Name, d)
		}
		for _, other := range b.Data {
			if other != n {
				other.Start()
				other.AwaitUp()
			}
		}
	}
}

// awaitAnswers waits until each node answers about the only copy.
func (b *sickbed) awaitAnswers(t *testing.T) {
	t.Helper()
	b.Await("all nodes hear each other again", func() bool {
		return !slices.ContainsFunc(b.Data, func(n *process.Node) bool {
			_, err := n.Client().Query(t.Context(), "single", damageQuery)
			return err != nil
		})
	})
}

func (b *sickbed) onlyCopy(t *testing.T) {
	var s api.Status
	b.Await("the only copy is shown as damaged after a restart", func() bool {
		var err error
		s, _, err = b.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && len(s.Shards) == 1
	})
	if m := s.Shards[0].Message; s.Shards[0].Status != "corrupt" ||
		!strings.HasPrefix(m, b.sick.TCP+": "+filepath.Base(b.singleFile)) {
		t.Errorf("%+v", s.Shards)
	}
	b.awaitAnswers(t)
	var other []string
	for i := range damagedSeries {
		rows, err := b.sick.Client().Query(t.Context(), "single",
			fmt.Sprintf("SELECT count(v), sum(v), first(v), last(v) FROM m WHERE s = 's%d'", i))
		if d := cmp.Diff(b.wantSingle[i:i+1], rows); d != "" {
			other = append(other, fmt.Sprintf("s%d %v\n%s", i, err, d))
		}
	}
	if t.Logf("answers otherwise: %s", other); len(other) > 1 {
		t.Error("more answers otherwise than the series with the damaged block")
	}
}

// quiet looks for something that goes round in circles.
func (b *sickbed) quiet(t *testing.T) {
	mark, used := len(b.sick.Log()), cpu(t, b.sick)
	at := time.Now()
	process.Poll(2*scrubEvery, func() bool { return false })
	took := time.Since(at)
	said := b.sick.Log()[mark:]
	used = cpu(t, b.sick) - used
	t.Logf("log of %s in %v, %v of CPU:\n%s", b.sick.Name, took, used, said)
	// one for each time that it is verified
	if n := strings.Count(said, "lvl=warn") + strings.Count(said, "lvl=error"); n > 3 {
		t.Errorf("%d warnings in %v", n, took)
	}
	if used > took/4 {
		t.Errorf("%v of CPU in %v of nothing to do", used, took)
	}
	if f, err := os.ReadFile(b.singleFile); err != nil || !bytes.Equal(f, b.harmed) {
		t.Errorf("the damaged file is not as it was: %v", err)
	}
}

func (b *sickbed) broughtBack(t *testing.T) {
	b.sick.Stop(syscall.SIGTERM)
	if err := os.WriteFile(b.singleFile, b.whole, 0o644); err != nil {
		t.Fatal(err)
	}
	b.sick.Start()
	b.sick.AwaitUp()
	b.Ctl("entropy", "check", fmt.Sprint(b.single.ID))
	b.Await("the shard is sound again", func() bool {
		s, _, err := b.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && s.Clean()
	})
	b.awaitAnswers(t)
	if d := cmp.Diff(b.wantSingle, b.answer(t, b.sick, "single")); d != "" {
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
