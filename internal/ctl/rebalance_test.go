package ctl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"concord/internal/meta/wire"
)

var rebalancePlan = wire.RebalancePlan{
	Steps: []wire.RebalanceStep{
		{ShardID: 7, Database: "telegraf", Policy: "autogen", Kind: "copy", To: "data2:8088", Source: "data1:8088",
			Bytes: 3 << 20, Reason: "too few copies"},
		{ShardID: 8, Database: "telegraf", Policy: "autogen", Kind: "move", From: "data3:8088", To: "data2:8088",
			Source: "data3:8088", Bytes: 1 << 20, Reason: "the node is drained"},
	},
	Bytes: 4 << 20,
	Nodes: []wire.RebalanceNode{
		{TCPAddr: "data2:8088", Before: 0, After: 4 << 20}, {TCPAddr: "data3:8088", Draining: true, Before: 1 << 20},
	},
	Problems: []string{"shard 9 of db.rp stays on data3:8088: no owner answers that has it"},
}

// mustServeRebalance serves the plan, and events as the answer of a run. It returns what was asked for.
func mustServeRebalance(t *testing.T, events func(send func(wire.RebalanceEvent))) (bind string,
	asked chan url.Values) {
	t.Helper()
	asked = make(chan url.Values, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Query()
		if r.Method == http.MethodGet {
			json.NewEncoder(w).Encode(rebalancePlan)
			return
		}
		events(func(e wire.RebalanceEvent) {
			json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		})
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), asked
}

func TestRebalanceDryRunPrintsThePlan(t *testing.T) {
	t.Parallel()
	bind, asked := mustServeRebalance(t, nil)
	got, err := run(t, bind, "rebalance", "-dry-run", "-drain", "data3:8088")
	if err != nil {
		t.Fatal(err)
	}
	want := `Plan
==========
Shard  Database  Retention Policy  Step  From        To          Size     Reason
7      telegraf  autogen           copy              data2:8088  3.0 MiB  too few copies
8      telegraf  autogen           move  data3:8088  data2:8088  1.0 MiB  the node is drained

Bytes
==========
Node        Before   After    
data2:8088  0 B      4.0 MiB  
data3:8088  1.0 MiB  0 B      is drained

2 steps copy 4.0 MiB.
Not in the plan: shard 9 of db.rp stays on data3:8088: no owner answers that has it
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if q := <-asked; q.Get("drain") != "data3:8088" {
		t.Errorf("asked for %v", q)
	}
}

func TestRebalancePrintsALineForEachShard(t *testing.T) {
	t.Parallel()
	plan, steps := rebalancePlan, rebalancePlan.Steps
	bind, asked := mustServeRebalance(t, func(send func(wire.RebalanceEvent)) {
		all := wire.RebalanceTotal{Steps: 2, Bytes: 4 << 20}
		send(wire.RebalanceEvent{Plan: &plan, All: all})
		send(wire.RebalanceEvent{Step: &steps[0], State: wire.StepCopying, All: all})
		all.Ended, all.Copied = 1, 3<<20
		send(wire.RebalanceEvent{Step: &steps[0], State: wire.StepDone, Copied: 3 << 20, All: all})
		all.Ended++
		send(wire.RebalanceEvent{Step: &steps[1], State: wire.StepFailed, Note: "the copy was killed", All: all})
		send(wire.RebalanceEvent{Ended: true, Error: "shard 8: the copy was killed", Empty: []string{"data3:8088"}})
	})
	got, err := run(t, bind, "rebalance", "-max-rate", "20m")
	want := `2 steps copy 4.0 MiB.
Not in the plan: shard 9 of db.rp stays on data3:8088: no owner answers that has it
shard 7 of telegraf.autogen: copy to data2:8088, done, 3.0 MiB
shard 8 of telegraf.autogen: move from data3:8088 to data2:8088, failed: the copy was killed
data3:8088 is empty: remove it with influxd-ctl remove-data data3:8088
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err == nil || err.Error() != "shard 8: the copy was killed" {
		t.Errorf("it ended with %v", err)
	}
	if q := <-asked; q.Get("max-rate") != fmt.Sprint(20<<20) {
		t.Errorf("asked for %v", q)
	}
}

func TestRebalanceSaysWhenTheMetaNodeWentAway(t *testing.T) {
	t.Parallel()
	plan := rebalancePlan
	bind, _ := mustServeRebalance(t, func(send func(wire.RebalanceEvent)) { send(wire.RebalanceEvent{Plan: &plan}) })
	_, err := run(t, bind, "rebalance")
	if err == nil || !strings.Contains(err.Error(), "run influxd-ctl rebalance again") ||
		errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

func TestRebalanceRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"rebalance -max-rate fast":                        "-max-rate: ",
		"rebalance -undrain data1:8088 -dry-run":          "-undrain: give it alone",
		"rebalance -undrain data1:8088 -drain data2:8088": "-undrain: give it alone",
	} {
		if _, err := run(t, "127.0.0.1:1", strings.Fields(args)...); err == nil ||
			!strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}
