package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	emeta "github.com/influxdata/influxdb/services/meta"
	"pgregory.net/rapid"

	"concord/internal/entropy"
	"concord/internal/rpc"
)

// apply is what the page does with a patch.
func apply(state encoded, patch []byte) error {
	var p encoded
	if err := json.Unmarshal(patch, &p); err != nil {
		return err
	}
	for section, values := range p {
		if state[section] == nil {
			state[section] = make(map[string]json.RawMessage)
		}
		for k, v := range values {
			if string(v) == "null" {
				delete(state[section], k)
			} else {
				state[section][k] = v
			}
		}
	}
	return nil
}

func TestPatchMakesTheNextStateOfTheLastOne(t *testing.T) {
	t.Parallel()
	states := rapid.Custom(func(t *rapid.T) encoded {
		out := make(encoded)
		for _, section := range []string{"nodes", "shards"} {
			out[section] = rapid.MapOf(rapid.StringMatching("[0-9]"), rapid.Custom(func(t *rapid.T) json.RawMessage {
				return json.RawMessage(fmt.Sprintf(`{"v":%d}`, rapid.IntRange(0, 3).Draw(t, "v")))
			})).Draw(t, section)
		}
		return out
	})
	rapid.Check(t, func(t *rapid.T) {
		before, next := states.Draw(t, "before"), states.Draw(t, "next")
		patch := changes(before, next)
		if same := cmp.Equal(before, next); same != (patch == nil) {
			t.Fatalf("the patch of the same state (%v) is %s", same, patch)
		}
		if patch != nil {
			if err := apply(before, patch); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(next, before); d != "" {
			t.Error(d)
		}
	})
}

// everything is a login of somebody who may do everything.
func everything() *login { return &login{} }

// next is the next message of a stream.
func next(t *testing.T, s *stream) (event string, data []byte) {
	t.Helper()
	select {
	case m, ok := <-s.messages:
		if !ok {
			t.Fatal("the stream ended")
		}
		event, rest, _ := strings.Cut(strings.TrimPrefix(string(m), "event: "), "\n")
		return event, []byte(strings.TrimSuffix(strings.TrimPrefix(rest, "data: "), "\n\n"))
	case <-time.After(patience):
		t.Fatal("no message comes")
	}
	return "", nil
}

// nextWith is the next patch of a stream that has some text. It skips others: a node that is late changes what the
// page shows.
func nextWith(t *testing.T, s *stream, text string) []byte {
	t.Helper()
	for {
		if event, data := next(t, s); event == "patch" && bytes.Contains(data, []byte(text)) {
			return data
		}
	}
}

// opened opens a stream, again and again until the state in its first message has the answers of all nodes.
func opened(t *testing.T, h *hub) (*stream, State) {
	t.Helper()
	for began := time.Now(); ; {
		s, err := h.open(t.Context(), everything())
		if err != nil {
			t.Fatal(err)
		}
		event, whole := next(t, s)
		if event != "state" {
			t.Fatalf("the first event is %s", event)
		}
		var state State
		if err := json.Unmarshal(whole, &state); err != nil {
			t.Fatal(err)
		}
		if !late(state) {
			return s, state
		}
		if time.Since(began) > patience {
			t.Fatalf("not all nodes answer: %s", whole)
		}
		h.leave(s)
		_, _ = h.now(t.Context(), 0) // or the next stream may begin with the same snapshot
	}
}

func TestStreamCarriesOnlyChanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	h := newHub(c.deps)
	defer h.close()
	s, state := opened(t, h)
	if state.Summary.Sentence != "All 4 shards agree" || state.Summary.Level != "good" || len(state.Nodes) != 3 {
		t.Errorf("%+v", state.Summary)
	}
	for began := time.Now(); ; {
		c.Nodes[0].Change(func(r *rpc.ReportResponse) { r.Written = []uint64{2} })
		h.soon()
		patch := nextWith(t, s, `"writing":1`)
		var changed encoded
		if err := json.Unmarshal(patch, &changed); err != nil {
			t.Fatal(err)
		}
		if len(changed) == 2 && len(changed["shards"]) == 1 && string(changed["summary"]["writing"]) == "1" {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("a shard that is being written changes %s", patch)
		}
		// More has changed when a node is late, or answers again: write another time.
		c.Nodes[0].Change(func(r *rpc.ReportResponse) { r.Written = nil })
		h.soon()
		nextWith(t, s, `"writing":0`)
	}
}

func TestAHundredPagesCostTheNodesAsMuchAsOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	h := newHub(c.deps)
	defer h.close()
	var streams []*stream
	for range 100 {
		s, err := h.open(t.Context(), everything())
		if err != nil {
			t.Fatal(err)
		}
		next(t, s)
		streams = append(streams, s)
	}
	before := c.Nodes[1].Asked.Load()
	c.Nodes[0].Change(func(r *rpc.ReportResponse) { r.ShardBytes = 1 << 20 })
	h.soon()
	var first []byte
	for i, s := range streams {
		patch := nextWith(t, s, `"bytes":1048576`)
		if i == 0 {
			first = patch
		} else if !bytes.Equal(first, patch) {
			t.Fatalf("page %d gets %s, and the first one %s", i, patch, first)
		}
	}
	// One snapshot is enough. Others come as time goes by, but not as many as there are pages.
	if n := c.Nodes[1].Asked.Load() - before; n >= int64(len(streams)/2) {
		t.Errorf("one change of what a hundred pages show asks a node %d times", n)
	}
}

func TestNobodyIsAskedWhileNoPageIsOpen(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	h := newHub(c.deps)
	s, err := h.open(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	h.leave(s)
	h.loops.Wait() // the loop has ended with the last page
	asked := c.Nodes[0].Asked.Load()
	h.soon()
	if h.stop != nil || c.Nodes[0].Asked.Load() != asked {
		t.Error("snapshots go on without a page")
	}
	again, err := h.open(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	if event, _ := next(t, again); event != "state" {
		t.Errorf("a page that is opened again gets %s", event)
	}
	h.close()
	if _, err := h.open(t.Context(), everything()); err == nil {
		t.Error("a node that stops opens a stream")
	}
}

func TestAStreamEndsWithTheUsersRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.deps.Logins = NewLogins(LoginDeps{On: true, State: c.deps.State})
	p := New(c.deps)
	defer p.Close()
	l, err := p.deps.Logins.begin("paul", "pw")
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.hub.open(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	event, whole := next(t, s)
	if event != "state" || bytes.Contains(whole, []byte("secret")) {
		t.Errorf("a reader of another database gets %s %s", event, whole)
	}
	c.SetUsers(func(all []emeta.UserInfo) []emeta.UserInfo { return all[1:] })
	p.hub.soon()
	for event = "patch"; event == "patch"; { // a node that is late changes what the page shows
		event, _ = next(t, s)
	}
	if event != "login" {
		t.Errorf("a user who was dropped gets %s", event)
	}
	if _, ok := <-s.messages; ok {
		t.Error("the stream of a user who was dropped goes on")
	}
}

func TestSentencesSayHowFarTheReplicasAgree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.Nodes[0].Control.Know.Shards = []entropy.ShardStatus{{ID: 1, Status: entropy.Diff},
		{ID: 2, Status: entropy.Missing}}
	c.Nodes[0].Control.Know.Processing, c.Nodes[0].Control.Know.Queued = []uint64{2}, []uint64{2}
	c.Nodes[0].Change(func(r *rpc.ReportResponse) { r.Unchecked = []uint64{3, 4} })
	h := newHub(c.deps)
	defer h.close()
	var snap *snapshot
	var s State
	for began := time.Now(); ; {
		var err error
		if snap, err = h.now(t.Context(), 0); err == nil {
			s = build(snap, c.deps, nil)
			if len(snap.entropy.Unreachable) == 0 && !late(s) {
				break
			}
		}
		if time.Since(began) > patience {
			t.Fatalf("not all nodes answer: %+v %v", s.Nodes, err)
		}
	}
	if want := "2 of 6 shards agree; 1 differs; 1 lacks a copy; 2 are not checked yet"; s.Summary.Sentence != want {
		t.Errorf("%q, not %q", s.Summary.Sentence, want)
	}
	if s.Summary.Level != "warn" || s.Shards["2"].Repair != "running" || s.Summary.Repairing != 1 {
		t.Errorf("%+v %+v", s.Summary, s.Shards["2"])
	}
	// What a reader of one database sees counts its own shards: 1, 3 and 5.
	s = build(snap, c.deps, c.User("paul"))
	if want := "1 of 3 shards agree; 1 differs; 1 is not checked yet"; s.Summary.Sentence != want {
		t.Errorf("%q, not %q", s.Summary.Sentence, want)
	}
	if s.Repairs != nil || s.Queries != nil || s.Events != nil || s.Meta != nil || s.Nodes["1"].Version != "" {
		t.Errorf("a reader sees %+v", s)
	}
}

// TestAnIdleClusterCostsLittle watches a cluster of 1,000 shards as a hundred pages do.
func TestAnIdleClusterCostsLittle(t *testing.T) {
	const collects = 60
	if raceEnabled {
		t.Skip("the race detector multiplies what everything costs")
	}
	c := newCluster(t, 1000)
	h := newHub(c.deps)
	defer h.close()
	var streams []*stream
	for range 100 {
		s, err := h.open(t.Context(), everything())
		if err != nil {
			t.Fatal(err)
		}
		next(t, s)
		streams = append(streams, s)
	}
	sent, began := 0, cpuTime(t)
	for i := range collects { // as many as in two minutes
		if i%15 == 0 { // the load is told anew every half a minute
			for _, n := range c.Nodes {
				n.Change(func(r *rpc.ReportResponse) {
					r.Load = []*rpc.Load{{Start: time.Now().Add(time.Duration(i) * every).UnixNano(), Seconds: 30}}
				})
			}
		}
		snap, err := h.now(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		h.tell(snap)
		for k, s := range streams {
			for len(s.messages) > 0 {
				if m := <-s.messages; k == 0 {
					sent += len(m)
				}
			}
		}
	}
	core := float64(cpuTime(t)-began) / float64(collects*every)
	perSecond := float64(sent) / (collects * every).Seconds()
	t.Logf("%.2f %% of a core, %.0f bytes a second for each page", 100*core, perSecond)
	if core >= 0.01 {
		t.Errorf("an idle cluster takes %.2f %% of a core", 100*core)
	}
	if perSecond >= 1000 || sent == 0 {
		t.Errorf("an idle cluster sends %.0f bytes a second", perSecond)
	}
}

func TestStreamHasAllSections(t *testing.T) {
	t.Parallel()
	var s State
	v := reflect.ValueOf(&s).Elem()
	var want []string
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Map {
			f.Set(reflect.MakeMap(f.Type()))
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		want = append(want, name)
	}
	got, err := encode(s)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
}

// cpuTime is how long this process has worked.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkIdleCluster(b *testing.B) {
	c := newCluster(b, 1000)
	h := newHub(c.deps)
	defer h.close()
	if _, err := h.open(b.Context(), everything()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		snap, err := h.now(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		h.tell(snap)
	}
}
