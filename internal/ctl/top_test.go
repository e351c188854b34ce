package ctl_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/page"
)

// pageState is a state as nodes send it: influxd-ctl has types of its own for it.
func pageState() page.State {
	// Half a minute more, so that a busy machine does not change what is shown: hours and minutes, or days and hours.
	ago := func(d time.Duration) *time.Time { at := time.Now().Add(-d - time.Minute/2).UTC(); return &at }
	disk := func(free, size uint64) page.Disk { return page.Disk{Path: "/data", Free: free, Size: size} }
	return page.State{
		Summary: page.Summary{
			Level: "bad", Sentence: "1,200 of 1,206 shards agree; 5 differ; 1 is in conflict", Shards: 1206,
			Agree:   1200,
			Checked: ago(3 * time.Hour), Deletes: 2, MoreDeletes: true,
		},
		Attention: map[string]page.Attention{
			"a": {Level: "warn", Text: "Repairs are paused on data1:8088", Do: "Resume them."},
			"b": {Level: "bad", Text: "Data node data2:8088 does not answer", Do: "Start it."},
		},
		Nodes: map[string]page.Node{
			"4": {
				Address: "data1:8088", Up: true, Since: ago(76 * time.Hour), Version: "1.2.0", Bytes: 12e9,
				Disks: []page.Disk{disk(50, 100), disk(120e9, 400e9)}, Load: &page.Load{Writes: 1200, Queries: 3.5},
				Hints: []page.Hints{
					{For: "5", Bytes: 12e6, Oldest: ago(4 * time.Hour)},
					{For: "9", Bytes: 20e6, Oldest: ago(5 * time.Hour)},
					{For: "6", Dropped: 3},
				},
			},
			"5": {Address: "data2:8088", Since: ago(4 * time.Hour), Error: "connection refused"},
		},
		Shards: map[string]page.Shard{
			"7":  {Database: "db", Policy: "autogen", Status: "equal"},
			"42": {Database: "db", Policy: "autogen", Status: "diff"},
			"9": {Database: "db", Policy: "week", Status: "conflict",
				Message: "the field \x1b[31mv of m is float and integer"},
			"10": {Database: "db", Policy: "autogen", Status: "missing"},
		},
		Repairs: map[string]page.Repair{
			"a": {Shard: "42", State: "running", Progress: 0.5, Points: 4200, Rate: 1.5e6, Left: 90,
				Added: ago(time.Minute)},
			"b": {Shard: "10", State: "queued"}, "c": {Shard: "9", State: "failed", Error: "an owner is away"},
			"d": {Shard: "7", State: "done", Ended: ago(time.Hour)},
		},
		Meta: map[string]page.Meta{
			"1": {Address: "meta1:8091", Up: true, State: "leader"},
			"2": {Address: "meta2:8091", Up: true, State: "follower"},
			"3": {Address: "meta3:8091"},
		},
		Settings: map[string]page.Setting{"data1:8088": {Paused: true}, "data2:8088": {}},
	}
}

func serveState(t *testing.T, s page.State) (addr string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != page.Base+"/state" {
			http.Error(w, `{"error":"no such path"}`, http.StatusNotFound)
			return
		}
		if err := json.NewEncoder(w).Encode(s); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestTopPrintsOneScreen(t *testing.T) {
	t.Parallel()
	got, err := run(t, serveState(t, pageState()), "top", "-once")
	if err != nil {
		t.Fatal(err)
	}
	want := `1,200 of 1,206 shards agree; 5 differ; 1 is in conflict
99.5 % agree, the last check of all ended 3h0m ago, 2 of 3 meta nodes answer, meta1:8091 leads, ` +
		`deletes that wait for nodes: at least 2

! Data node data2:8088 does not answer. Start it.
! Repairs are paused on data1:8088. Resume them.

Data Node   State  Since  Version  Free Disk       Data      Writes/s  Queries/s  Hints
data1:8088  up     3d4h   1.2.0    30 % 111.8 GiB  11.2 GiB  1200      3.5        ` +
		`19.1 MiB for node 9 since 5h0m, 11.4 MiB for data2:8088 since 4h0m
data2:8088  away   4h0m

Running Repairs
shard 42       running  [###############...............]  50%       4200 points   1.4 MiB/s  1m30s left
Queued Repairs: 2: 9 (failed), 10
Repairs are paused on data1:8088

Shard  Status    Database  Retention Policy  Message
9      conflict  db        week              the field ?[31mv of m is float and integer
10     missing   db        autogen
42     diff      db        autogen
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTopOfACleanClusterIsShort(t *testing.T) {
	t.Parallel()
	got, err := run(t, serveState(t,
		page.State{Summary: page.Summary{Level: "good", Sentence: "All 3 shards agree", Shards: 3, Agree: 3}}),
		"top", "-once")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(got, "\n\n")
	if head != "All 3 shards agree\n100.0 % agree" {
		t.Errorf("it prints %q", got)
	}
}

func TestTopPrintsJSON(t *testing.T) {
	t.Parallel()
	want := pageState()
	got, err := run(t, serveState(t, want), "top", "-json")
	if err != nil {
		t.Fatal(err)
	}
	var s page.State
	if err := json.Unmarshal([]byte(got), &s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
}

func TestTopSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	addr := serveState(t, page.State{})
	for _, tt := range []struct{ args, want string }{
		{"top -interval 0s", "-interval: must be above 0"},
		{"top 7", `top: unexpected argument "7": influxd-ctl top [flags]`},
	} {
		if _, err := run(t, addr, strings.Fields(tt.args)...); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
		}
	}
}
