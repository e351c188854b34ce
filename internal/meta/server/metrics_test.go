package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"concord/internal/meta/metatest"
)

func TestMetricsTellWhetherThereIsALeader(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	has := func(m *metatest.Meta, field string, value int) func() bool {
		line := fmt.Sprintf("\ninfluxdb_meta_%s{nodeID=%q} %d\n", field, m.RaftAddr(), value)
		return func() bool {
			_, body := metatest.CallOnly(t, "GET", m.URL("/metrics"))
			return strings.Contains(body, line)
		}
	}
	for _, m := range nodes {
		for field, value := range map[string]int{"hasLeader": 1, "peers": 3, "dataNodes": 0} {
			if !metatest.Until(t, has(m, field, value)) {
				t.Errorf("%s of %s is not %d", field, m.RaftAddr(), value)
			}
		}
	}
	if !metatest.Until(t, func() bool { // on a busy machine another one may lead by now
		leader = metatest.LeaderOf(t, nodes)
		return has(leader, "isLeader", 1)() && has(leader, "contactSec", 0)()
	}) {
		t.Error("the leader does not say that it leads")
	}
	rest := metatest.Others(nodes, leader)
	leader.Stop()
	rest[0].Stop()
	if !metatest.Until(t, has(rest[1], "hasLeader", 0)) || !has(rest[1], "isLeader", 0)() {
		t.Error("a meta node without the others still has a leader")
	}
	if _, body := metatest.Call(t, "GET", rest[1].URL("/metrics")); !strings.Contains(body, "\ngo_goroutines ") {
		t.Error("nothing is said of the process")
	}
}

func TestVarsOfAMetaNodeAreTheValuesOfItsMetrics(t *testing.T) {
	t.Parallel()
	for _, m := range metatest.NewCluster(t, 1) {
		_, body := metatest.Call(t, "GET", m.URL("/debug/vars"))
		var vars struct {
			Meta struct {
				Name   string
				Tags   map[string]string
				Values map[string]float64
			}
			Memstats struct{ HeapAlloc uint64 }
			Cmdline  []string
		}
		if err := json.Unmarshal([]byte(body), &vars); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		v := vars.Meta
		if v.Name != "meta" || v.Tags["nodeID"] != m.RaftAddr() || v.Values["peers"] != 1 || v.Values["isLeader"] != 1 {
			t.Errorf("/debug/vars has %+v", v)
		}
		if vars.Memstats.HeapAlloc == 0 || len(vars.Cmdline) == 0 {
			t.Error("nothing is said of the process")
		}
		_, metrics := metatest.Call(t, "GET", m.URL("/metrics"))
		for field := range v.Values {
			if !strings.Contains(metrics, "# TYPE influxdb_meta_"+field+" gauge\n") {
				t.Errorf("/metrics has no gauge %s", field)
			}
		}
	}
}
