package routes

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/api"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/view"
	"concord/internal/order"
)

// users are those that the engine's handler asks for: admin and reader, with any password.
type users struct{ *meta.Client }

func (users) AdminUserExists() bool { return true }

func (users) Authenticate(name, _ string) (meta.User, error) {
	if name != "admin" && name != "reader" {
		return nil, meta.ErrUserNotFound
	}
	return &meta.UserInfo{Name: name, Admin: name == "admin"}, nil
}

// viewCluster has no service under test: all three nodes are fakes.
func viewCluster() (*entropytest.Cluster, [3]*entropytest.Control) {
	c := entropytest.NewCluster()
	var controls [3]*entropytest.Control
	for i := range controls {
		controls[i] = c.Controls[uint64(i+1)].(*entropytest.Control)
	}
	return c, controls
}

func dataView(c *entropytest.Cluster) *view.View {
	return &view.View{State: c.State, Transport: c, NodeID: c.NodeID, Self: c.Controls[c.ID]}
}

func metaView(c *entropytest.Cluster) *view.View { return &view.View{State: c.State, Transport: c} }

func metaHandler(c *entropytest.Cluster) http.Handler {
	return NewHandler(metaView(c), func(*http.Request) meta.User { return nil })
}

func dataHandler(v *view.View, auth bool) http.Handler {
	cfg := httpd.NewConfig()
	cfg.AuthEnabled, cfg.LogEnabled = auth, false
	h := httpd.NewHandler(cfg)
	h.MetaClient = users{}
	h.AddRoutes(Routes(v)...)
	return h
}

func do(h http.Handler, method, target, form string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantError(t *testing.T, w *httptest.ResponseRecorder, code int) string {
	t.Helper()
	var body struct{ Error string }
	if w.Code != code || json.Unmarshal(w.Body.Bytes(), &body) != nil || body.Error == "" ||
		!strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		t.Fatalf("answer is %d %s, want %d and an error in JSON", w.Code, w.Body, code)
	}
	return body.Error
}

func TestRequestsThatAreRefused(t *testing.T) {
	big := "id=1&x=" + strings.Repeat("x", maxForm)
	for _, tc := range []struct {
		name, method, target, form string
		data, meta                 int // 0: not refused
	}{
		{"missing id", "POST", "/shard-repair/repair", "", 400, 400},
		{"empty id", "POST", "/shard-repair/repair?id=", "", 400, 400},
		{"malformed id", "POST", "/shard-repair/repair?id=one", "", 400, 400},
		{"signed id", "POST", "/shard-repair/repair?id=%2B1", "", 400, 400},
		{"negative id", "POST", "/shard-repair/repair?id=-1", "", 400, 400},
		{"overflowing id", "POST", "/shard-repair/repair?id=18446744073709551616", "", 400, 400},
		{"fraction", "POST", "/shard-repair/cancel-repair?id=1.0", "", 400, 400},
		{"unknown id", "POST", "/shard-repair/repair?id=99", "", 400, 400},
		{"unknown id to cancel", "POST", "/shard-repair/cancel-repair", "id=99", 400, 400},
		{"zero id", "POST", "/shard-repair/repair?id=0", "", 400, 400},
		{"two ids", "POST", "/shard-repair/repair?id=1", "id=2", 400, 400},
		{"malformed query", "POST", "/shard-repair/repair?id=1&%zz", "", 400, 400},
		{"large body", "POST", "/shard-repair/repair", big, 400, 400},
		{"bad local", "GET", "/shard-repair/status?local=maybe", "", 400, 400},
		{"empty local", "GET", "/shard-repair/status?local", "", 400, 400},
		{"bad local to cancel", "POST", "/shard-repair/cancel-repair?id=1&local=2", "", 400, 400},
		{"local on a meta node", "GET", "/shard-repair/status?local=false", "", 0, 400},
		{"local cancel on a meta node", "POST", "/shard-repair/cancel-repair?id=1", "local=true", 0, 400},
		{"malformed id to check", "POST", "/shard-repair/check?id=one", "", 400, 400},
		{"unknown id to check", "POST", "/shard-repair/check?id=99", "", 400, 400},
		{"zero id to check", "POST", "/shard-repair/check?id=0", "", 400, 400},
		{"missing id to compare", "GET", "/shard-repair/diff", "", 400, 400},
		{"unknown id to compare", "GET", "/shard-repair/diff?id=99", "", 400, 400},
		{"missing id to resolve", "POST", "/shard-repair/resolve?measurement=m&field=f&type=float", "", 400, 400},
		{"unknown id to resolve", "POST", "/shard-repair/resolve?id=99&measurement=m&field=f&type=float", "", 400, 400},
		{"missing measurement to resolve", "POST", "/shard-repair/resolve?id=1&field=f&type=float", "", 400, 400},
		{"empty field to resolve", "POST", "/shard-repair/resolve?id=1&measurement=m&field=&type=float", "", 400, 400},
		{"two types to resolve", "POST", "/shard-repair/resolve?id=1&measurement=m&field=f&type=float&type=integer", "", 400, 400},
		{"unknown type to resolve", "POST", "/shard-repair/resolve?id=1&measurement=m&field=f&type=number", "", 400, 400},
		{"unknown path", "GET", "/shard-repair/nothing", "", 404, 404},
		{"path below", "GET", "/shard-repair/status/1", "", 404, 404},
		{"base", "GET", "/shard-repair", "", 404, 404},
		{"base with slash", "POST", "/shard-repair/", "", 404, 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, controls := viewCluster()
			for h, code := range map[http.Handler]int{dataHandler(dataView(c), false): tc.data, metaHandler(c): tc.meta} {
				if w := do(h, tc.method, tc.target, tc.form); code != 0 {
					wantError(t, w, code)
				} else if w.Code/100 != 2 {
					t.Errorf("answer is %d %s", w.Code, w.Body)
				}
			}
			for _, f := range controls {
				if len(f.Repaired) > 0 {
					t.Errorf("queued %v", f.Repaired)
				}
			}
		})
	}
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	c, _ := viewCluster()
	for _, h := range []http.Handler{dataHandler(dataView(c), false), metaHandler(c)} {
		for path, allowed := range map[string]string{"status": "GET", "repair": "POST", "cancel-repair": "POST", "check": "POST", "repairs": "GET", "pause": "POST", "resume": "POST", "diff": "GET", "resolve": "POST"} {
			for _, m := range methods {
				if m == allowed || m == http.MethodOptions {
					continue
				}
				w := do(h, m, "/shard-repair/"+path+"?id=1", "")
				wantError(t, w, http.StatusMethodNotAllowed)
				if got := w.Header().Get("Allow"); got != allowed {
					t.Errorf("%s %s: Allow is %q", m, path, got)
				}
			}
		}
	}
}

func TestStatusAnswer(t *testing.T) {
	c, controls := viewCluster()
	for _, h := range []http.Handler{dataHandler(dataView(c), false), metaHandler(c)} {
		if got, want := do(h, "GET", "/shard-repair/status", "").Body.String(),
			`{"shards":[],"queued_shards":[],"processing_shards":[]}`+"\n"; got != want {
			t.Errorf("status is %s, want %s", got, want)
		}
	}
	controls[1].Know = entropy.NodeStatus{Enabled: true, Shards: []entropy.ShardStatus{{ID: 2, Status: entropy.Diff}}, Queued: []uint64{2}, Processing: []uint64{2}}
	controls[0].Know = entropy.NodeStatus{Enabled: true, Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Missing}, {ID: 2, Status: entropy.Conflict}}, Queued: []uint64{1, 2, 77}}
	controls[2].Err = entropytest.ErrAway
	w := do(metaHandler(c), "GET", "/shard-repair/status", "")
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	shards := got["shards"].([]any)
	if len(shards) != 2 || shards[0].(map[string]any)["status"] != "missing" || shards[1].(map[string]any)["status"] != "conflict" {
		t.Errorf("shards are %v", shards)
	}
	first := shards[0].(map[string]any)
	sh, _ := c.State().Shard(1)
	if d := cmp.Diff(map[string]any{
		"id": "1", "database": "db", "retention_policy": "autogen", "expires": "0", "status": "missing",
		"start_time": json.Number(itoa(sh.Start)).String(), "end_time": json.Number(itoa(sh.End)).String(),
	}, first); d != "" {
		t.Error(d)
	}
	delete(got, "shards")
	if d := cmp.Diff(map[string]any{
		"queued_shards": []any{"1", "2"}, "processing_shards": []any{"2"}, "unreachable_nodes": []any{"data3:8088"},
	}, got); d != "" {
		t.Error(d)
	}
}

func itoa(n int64) string { b, _ := json.Marshal(n); return string(b) }

func TestLocalStatusHasOnlyOwnShards(t *testing.T) {
	c, controls := viewCluster()
	owners := c.State().Data.Databases[0].RetentionPolicies[0].ShardGroups[1].Shards[0].Owners
	c.State().Data.Databases[0].RetentionPolicies[0].ShardGroups[1].Shards[0].Owners = owners[1:]
	controls[1].Know = entropy.NodeStatus{Enabled: true, Shards: []entropy.ShardStatus{{ID: 2, Status: entropy.Diff}}, Queued: []uint64{2}}
	controls[0].Know = entropy.NodeStatus{Enabled: true, Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}}
	st, err := dataView(c).Status(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Shards) != 1 || st.Shards[0].ID != 1 || len(st.Queued) != 0 {
		t.Errorf("local status is %+v", st)
	}
}

func TestRepairGoesToTheFirstOwner(t *testing.T) {
	for _, form := range []bool{true, false} {
		c, controls := viewCluster()
		c.ID = 2
		target, body := "/shard-repair/repair?id=1", ""
		if form {
			target, body = "/shard-repair/repair", url.Values{"id": {"1"}}.Encode()
		}
		for _, h := range []http.Handler{dataHandler(dataView(c), false), metaHandler(c)} {
			if w := do(h, "POST", target, body); w.Code != 204 || w.Body.Len() != 0 {
				t.Errorf("answer is %d %s", w.Code, w.Body)
			}
		}
		if d := cmp.Diff([]uint64{1, 1}, controls[0].Repaired); d != "" || len(controls[1].Repaired)+len(controls[2].Repaired) > 0 {
			t.Errorf("queued on %v %v %v", controls[0].Repaired, controls[1].Repaired, controls[2].Repaired)
		}
		controls[0].Err = entropytest.ErrAway
		if msg := wantError(t, do(metaHandler(c), "POST", target, body), 500); !strings.Contains(msg, "data1:8088") {
			t.Errorf("error is %q", msg)
		}
	}
}

func TestCancelGoesToAllNodesOrToThisOne(t *testing.T) {
	c, controls := viewCluster()
	h := dataHandler(dataView(c), false)
	if w := do(h, "POST", "/shard-repair/cancel-repair?id=1&local=true", ""); w.Code != 204 {
		t.Errorf("answer is %d %s", w.Code, w.Body)
	}
	if w := do(h, "POST", "/shard-repair/cancel-repair?id=1", ""); w.Code != 204 {
		t.Errorf("answer is %d %s", w.Code, w.Body)
	}
	if len(controls[0].Canceled) != 2 || len(controls[1].Canceled) != 1 || len(controls[2].Canceled) != 1 {
		t.Errorf("canceled on %v %v %v", controls[0].Canceled, controls[1].Canceled, controls[2].Canceled)
	}
}

func TestDisabledServiceAnswers404OnEveryPath(t *testing.T) {
	c, controls := viewCluster()
	off := dataView(c)
	off.Self = nil
	for _, f := range controls {
		f.Know, f.Err = entropy.NodeStatus{}, nil
	}
	for name, h := range map[string]http.Handler{"no service": dataHandler(off, false), "reloaded": dataHandler(dataView(c), false)} {
		for _, req := range [][2]string{{"GET", "/status"}, {"POST", "/repair?id=1"}, {"POST", "/cancel-repair"}, {"DELETE", "/status"}, {"GET", "/x"}} {
			if msg := wantError(t, do(h, req[0], api.Base+req[1], ""), 404); !strings.Contains(msg, "[anti-entropy] enabled") {
				t.Errorf("%s: %v: error is %q", name, req, msg)
			}
		}
	}
	if msg := wantError(t, do(metaHandler(c), "GET", "/shard-repair/status", ""), 404); !strings.Contains(msg, "[anti-entropy] enabled") {
		t.Errorf("error of a meta node is %q", msg)
	}
}

func TestAuthentication(t *testing.T) {
	c, controls := viewCluster()
	h := dataHandler(dataView(c), true)
	for _, tc := range []struct {
		method, path, user string
		code               int
	}{
		{"GET", "/status", "", 401}, {"POST", "/repair?id=1", "", 401}, {"GET", "/nothing", "", 401},
		{"GET", "/status", "nobody", 401}, {"GET", "/status", "reader", 200}, {"POST", "/repair?id=1", "reader", 403},
		{"GET", "/diff?id=1", "reader", 403}, {"GET", "/diff?id=1", "admin", 200},
		{"GET", "/repairs", "reader", 403}, {"GET", "/repairs", "admin", 200}, {"GET", "/openapi.json", "reader", 200},
		{"POST", "/check", "reader", 403}, {"POST", "/pause", "reader", 403}, {"POST", "/resume", "reader", 403},
		{"POST", "/resolve?id=1&measurement=m&field=f&type=float", "reader", 403}, {"POST", "/cancel-repair?id=1", "reader", 403}, {"GET", "/status", "admin", 200}, {"POST", "/repair?id=1", "admin", 204},
	} {
		r := httptest.NewRequest(tc.method, api.Base+tc.path, nil)
		if tc.user != "" {
			r.SetBasicAuth(tc.user, "secret")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.code {
			t.Errorf("%s %s as %q: %d %s, want %d", tc.method, tc.path, tc.user, w.Code, w.Body, tc.code)
		}
	}
	if len(controls[0].Repaired) != 1 {
		t.Errorf("queued %v", controls[0].Repaired)
	}
}

// The dry run and the records say alike who had which value, and of which version where that is known.
func TestConflictsHaveValuesAndVersions(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 60_000, time.UTC)
	version := uint64(order.AtTime(at)) | 2<<8 | 4
	decided := []entropy.Decision{
		{Series: "m", Field: "f", Time: -7, Value: "1", Why: "why", Held: []entropy.Held{
			{Node: "data1:8088", Value: "1", Version: version}, {Node: "data2:8088", Value: "2", Bound: version},
			{Node: "data3:8088", Value: "3", Version: patch.Uncertain}, {Node: "data4:8088", Value: "4"},
		}},
		{Series: "m", Field: "g", Why: "not yet", Open: true, Held: []entropy.Held{{Node: "data1:8088", Value: "1"}}},
	}
	want := []api.Decided{
		{Series: "m", Field: "f", Time: "-7", Value: "1", Reason: "why", Held: []api.Held{
			{Node: "data1:8088", Value: "1", Version: "2026-01-02T03:04:05.000060Z #2 node 4"},
			{Node: "data2:8088", Value: "2", NotAfter: "2026-01-02T03:04:05.00006Z"},
			{Node: "data3:8088", Value: "3", Version: api.BeingWritten}, {Node: "data4:8088", Value: "4"},
		}},
		{Series: "m", Field: "g", Time: "0", Reason: "not yet", Undecided: true, Held: []api.Held{
			{Node: "data1:8088", Value: "1"},
		}},
	}
	c, controls := viewCluster()
	controls[0].Dry.Decided = decided
	controls[0].Records = []entropy.RepairRecord{{ShardID: 1, Decided: decided}}
	var (
		diff    api.Diff
		repairs api.Repairs
	)
	for path, into := range map[string]any{"/diff?id=1": &diff, "/repairs": &repairs} {
		if err := json.Unmarshal(do(metaHandler(c), "GET", api.Base+path, "").Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, diff.Decided); d != "" {
		t.Errorf("diff: %s", d)
	}
	if len(repairs.Repairs) != 1 {
		t.Fatalf("%d repairs", len(repairs.Repairs))
	}
	if d := cmp.Diff(want, repairs.Repairs[0].Decided); d != "" {
		t.Errorf("repairs: %s", d)
	}
}

func withPrivilege(db string, p influxql.Privilege) *meta.UserInfo {
	return &meta.UserInfo{Privileges: map[string]influxql.Privilege{db: p}}
}

// The status says nothing of databases that a user may not read, and no more of those that are gone.
func TestStatusIsOfWhatTheUserMayRead(t *testing.T) {
	c, controls := viewCluster()
	controls[0].Know = entropy.NodeStatus{
		Enabled: true, Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}, Queued: []uint64{1, 77}, Processing: []uint64{1},
	}
	empty, all := `{"shards":[],"queued_shards":[],"processing_shards":[]}`, ""
	for _, tt := range []struct {
		name string
		user meta.User
		sees bool
	}{
		{"without authentication", nil, true},
		{"an administrator", &meta.UserInfo{Admin: true}, true},
		{"a reader", withPrivilege("db", influxql.ReadPrivilege), true},
		{"who may do all with it", withPrivilege("db", influxql.AllPrivileges), true},
		{"a writer", withPrivilege("db", influxql.WritePrivilege), false},
		{"a reader of another", withPrivilege("other", influxql.ReadPrivilege), false},
		{"a user without privileges", &meta.UserInfo{}, false},
	} {
		h := NewHandler(metaView(c), func(*http.Request) meta.User { return tt.user })
		got := strings.TrimSpace(do(h, "GET", "/shard-repair/status", "").Body.String())
		if all == "" {
			all = got
		}
		if want := map[bool]string{true: all, false: empty}[tt.sees]; got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
	if !strings.Contains(all, `"queued_shards":["1"],"processing_shards":["1"]`) {
		t.Errorf("status: %s", all)
	}
}

// Who manages shards sees repairs of all databases, and series and values of those that it may read.
func TestRepairsTellSeriesToReadersAlone(t *testing.T) {
	t.Parallel()
	c, controls := viewCluster()
	controls[0].Records = []entropy.RepairRecord{{
		ShardID: 1, State: entropy.Failed, Points: 3, Conflicts: 1, Refused: 1, Error: "apply hidden-series: no",
		Decided: []entropy.Decision{{
			Series: "hidden-series", Field: "hidden-field", Value: "hidden-value",
			Held: []entropy.Held{{Node: "data1:8088", Value: "hidden-value"}},
		}},
		Refusals: []entropy.Refusal{{Series: "hidden-series", Field: "hidden-field"}},
	}}
	manages := cluster.Grants{"": cluster.ManageShard}
	for _, tt := range []struct {
		name string
		user meta.User
		sees bool
	}{
		{"without authentication", nil, true},
		{"who manages shards", &cluster.User{Grants: manages}, false},
		{"who also reads another", &cluster.User{Grants: cluster.Grants{
			"": cluster.ManageShard, "other": cluster.ReadData,
		}}, false},
		{"who also reads it", &cluster.User{Grants: cluster.Grants{
			"": cluster.ManageShard, "db": cluster.ReadData,
		}}, true},
	} {
		h := NewHandler(metaView(c), func(*http.Request) meta.User { return tt.user })
		body := do(h, "GET", "/shard-repair/repairs", "").Body.String()
		if strings.Contains(body, "hidden-") != tt.sees || strings.Contains(body, hidden) == tt.sees {
			t.Errorf("%s: %s", tt.name, body)
		}
		if !strings.Contains(body, `"state":"failed"`) || !strings.Contains(body, `"points":3,"conflicts":1`) {
			t.Errorf("%s: the rest is missing: %s", tt.name, body)
		}
	}
}

func TestViewBeforeTheNodeJoined(t *testing.T) {
	v := &view.View{State: func() *cluster.State { return nil }}
	if st, err := v.Status(context.Background(), false); err != nil || len(st.Shards) != 0 {
		t.Errorf("status is %+v, %v", st, err)
	}
	if _, err := v.Repair(context.Background(), 1); err == nil {
		t.Error("an unknown shard was accepted")
	}
}

func TestTheAnswerNamesTheRepair(t *testing.T) {
	t.Parallel()
	c, controls := viewCluster()
	for _, n := range controls {
		n.Records = []entropy.RepairRecord{
			{ShardID: 2, State: entropy.Running, Added: time.Unix(1, 0)},
			{ShardID: 1, State: entropy.Waiting, Added: time.Unix(1700000000, 0)},
			{ShardID: 1, State: entropy.Done, Added: time.Unix(1600000000, 0)},
		}
	}
	h := metaHandler(c)
	w := do(h, "POST", "/shard-repair/repair", "id=1")
	id := w.Header().Get(api.RepairIDHeader)
	if w.Code != http.StatusNoContent || !strings.HasPrefix(id, "1-") {
		t.Fatalf("%d, header %q", w.Code, id)
	}
	var all api.Repairs
	if err := json.Unmarshal(do(h, "GET", "/shard-repair/repairs", "").Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	for _, r := range all.Repairs {
		if (r.RepairID == id) != (r.ID == "1" && r.State == "queued") {
			t.Errorf("the repair of shard %s that is %s has the ID %s", r.ID, r.State, r.RepairID)
		}
	}
}

func TestCheckPauseAndRepairsOverHTTP(t *testing.T) {
	t.Parallel()
	at := time.Unix(1700000000, 0)
	for name, view := range map[string]func(*entropytest.Cluster) http.Handler{
		"data": func(c *entropytest.Cluster) http.Handler { return dataHandler(dataView(c), false) },
		"meta": func(c *entropytest.Cluster) http.Handler { return metaHandler(c) },
	} {
		c, controls := viewCluster()
		h := view(c)
		for _, step := range []struct {
			target string
			code   int
			ok     func() bool
		}{
			{"/shard-repair/check", 202, func() bool { return len(controls[1].Checked) == 1 && controls[1].Checked[0] == 0 }},
			{"/shard-repair/check?id=1", 202, func() bool { return len(controls[2].Checked) == 2 && controls[2].Checked[1] == 1 }},
			{"/shard-repair/pause", 204, func() bool { return controls[1].Paused && controls[2].Paused }},
			{"/shard-repair/resume", 204, func() bool { return !controls[1].Paused && !controls[2].Paused }},
		} {
			if w := do(h, "POST", step.target, ""); w.Code != step.code || !step.ok() {
				t.Errorf("%s node: %s: %d %s", name, step.target, w.Code, w.Body)
			}
		}
		controls[1].Paused = true
		controls[1].Records = []entropy.RepairRecord{
			{ShardID: 1, State: entropy.Done, Started: at, Ended: at.Add(time.Second), Points: 5},
			{ShardID: 2, State: entropy.Running, Started: at, Total: 4, Fixed: 1, Rate: 10, ETA: 3 * time.Second, Owners: []string{"a", "b"}},
		}
		controls[2].Err = entropytest.ErrAway
		w := do(h, "GET", "/shard-repair/repairs", "")
		var got api.Repairs
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Fatalf("%s node: %d %s", name, w.Code, w.Body)
		}
		if len(got.Repairs) != 2 || got.Repairs[0].ID != "2" || got.Repairs[0].Progress != 0.25 || got.Repairs[0].ETA != 3 || got.Repairs[0].Ended != "0" ||
			got.Repairs[1].State != string(entropy.Done) || got.Repairs[1].Ended != "1700000001000000000" || len(got.Paused) != 1 || len(got.Unreachable) != 1 {
			t.Errorf("%s node: %s", name, w.Body)
		}
		if w := do(h, "POST", "/shard-repair/pause", ""); w.Code != 500 {
			t.Errorf("%s node: pause with a node away: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestResolveOverHTTP(t *testing.T) {
	t.Parallel()
	for name, view := range map[string]func(*entropytest.Cluster) http.Handler{
		"data": func(c *entropytest.Cluster) http.Handler { return dataHandler(dataView(c), false) },
		"meta": func(c *entropytest.Cluster) http.Handler { return metaHandler(c) },
	} {
		c, controls := viewCluster()
		h := view(c)
		w := do(h, "POST", "/shard-repair/resolve", "id=1&measurement=m%20x&field=f&type=unsigned")
		want := `{"id":"1","owners":[{"node":"data1:8088","points":0},{"node":"data2:8088","points":3,"kept":"/x/values.lp"}]}`
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s node: %d %s", name, w.Code, w.Body)
		}
		asked := 0
		for _, ctl := range controls {
			for _, f := range ctl.Retyped {
				if asked++; f != (retype.Field{Measurement: "m x", Name: "f", Type: digest.Unsigned}) {
					t.Errorf("%s node: asked for %+v", name, f)
				}
			}
		}
		if asked != 1 {
			t.Errorf("%s node: %d nodes were asked, want the first owner alone", name, asked)
		}
		for _, ctl := range controls {
			ctl.Err = entropy.UnresolvableError{Reason: "there is no such field"}
		}
		if got := wantError(t, do(h, "POST", "/shard-repair/resolve", "id=1&measurement=m&field=f&type=float"), 400); got != "there is no such field" {
			t.Errorf("%s node: %s", name, got)
		}
	}
}

// TestOpenAPIIsTrueToTheCode asks every path of the description, and compares the answers with it.
func TestOpenAPIIsTrueToTheCode(t *testing.T) {
	t.Parallel()
	c, _ := viewCluster()
	for _, h := range []http.Handler{dataHandler(dataView(c), false), metaHandler(c)} {
		w := do(h, "GET", "/shard-repair/openapi.json", "")
		var doc struct {
			OpenAPI string
			Paths   map[string]map[string]struct {
				Parameters []struct {
					Name     string
					Required bool
				}
				Responses map[string]struct {
					Content map[string]struct {
						Schema struct {
							Properties map[string]any
							Required   []string
						}
					}
				}
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 || !strings.HasPrefix(doc.OpenAPI, "3.") {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		if len(doc.Paths) != len(routes) {
			t.Errorf("%d paths are described, %d served", len(doc.Paths), len(routes))
		}
		for path, methods := range doc.Paths {
			for method, op := range methods {
				target, next := path, "?"
				for _, p := range op.Parameters {
					if p.Required {
						value := "1"
						if p.Name == "type" {
							value = "float"
						}
						target, next = target+next+p.Name+"="+value, "&"
						wantError(t, do(h, strings.ToUpper(method), path, ""), 400)
					}
				}
				w := do(h, strings.ToUpper(method), target, "")
				answer, ok := op.Responses[strconv.Itoa(w.Code)]
				if !ok || w.Code >= 300 {
					t.Errorf("%s %s answers %d, which is not described", method, target, w.Code)
					continue
				}
				content, ok := answer.Content["application/json"]
				if ok != (w.Body.Len() > 0) {
					t.Errorf("%s %s: a body is described: %v, and came: %s", method, target, ok, w.Body)
				}
				if !ok {
					continue
				}
				var got map[string]any
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
					t.Fatal(err)
				}
				for key := range got {
					if _, ok := content.Schema.Properties[key]; !ok {
						t.Errorf("%s %s: %s is not described", method, target, key)
					}
				}
				for _, key := range content.Schema.Required {
					if _, ok := got[key]; !ok {
						t.Errorf("%s %s: %s is missing", method, target, key)
					}
				}
			}
		}
	}
}

func TestMaxRateReachesEveryNode(t *testing.T) {
	t.Parallel()
	c, controls := viewCluster()
	h := metaHandler(c)
	post := func(query string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/shard-repair/max-rate"+query, nil))
		return w
	}
	for _, bad := range []string{"", "?bytes=", "?bytes=-1", "?bytes=fast", "?bytes=1&bytes=2"} {
		if w := post(bad); w.Code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := post("?bytes=1048576"); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for i, n := range controls {
		if n.MaxRate != 1<<20 {
			t.Errorf("node %d repairs with %d bytes a second", i+1, n.MaxRate)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/shard-repair/repairs", nil))
	var all api.Repairs
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{}
	for _, n := range c.State().DataNodes {
		want[n.TCPAddr] = 1 << 20
	}
	if d := cmp.Diff(want, all.MaxRates); d != "" {
		t.Error(d)
	}
}

func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	t.Parallel()
	c, controls := viewCluster()
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"http://elsewhere.example"}},
	} {
		r := httptest.NewRequest(http.MethodPost, "http://data1:8086/shard-repair/pause", nil)
		r.Header = header
		w := httptest.NewRecorder()
		metaHandler(c).ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || controls[0].Paused {
			t.Errorf("%v: %d %s", header, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "http://data1:8086/shard-repair/pause", nil)
	r.Header = http.Header{"Origin": {"http://data1:8086"}}
	w := httptest.NewRecorder()
	metaHandler(c).ServeHTTP(w, r)
	if w.Code != http.StatusNoContent || !controls[0].Paused {
		t.Errorf("from its own page: %d %s", w.Code, w.Body)
	}
}
