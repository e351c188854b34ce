package server

import (
	"encoding/json"
	"expvar"
	"net/http"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// metrics serves GET /metrics for Prometheus: this node's part in Raft, named as the statistics of data nodes are.
func (a *API) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := a.server
	for _, m := range s.measures() {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "influxdb_meta_" + m.field, Help: m.help, ConstLabels: prometheus.Labels{"nodeID": s.raftAddr},
		}, func() float64 { return m.value(s.st()) }))
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(s.log)})
}

// measure is one statistic of a meta node.
type measure struct {
	field, help string
	value       func(*store) float64
}

// measures are the statistics of this node.
func (s *Server) measures() []measure {
	return []measure{
		{"hasLeader", "1 when this meta node knows who leads the meta nodes, else 0.", func(st *store) float64 {
			leader, _ := st.raft.LeaderWithID()
			return zeroOrOne(leader != "")
		}},
		{"isLeader", "1 when this meta node leads, else 0.", func(st *store) float64 { return zeroOrOne(st.leads()) }},
		{"contactSec", "Seconds since this meta node last heard of a leader; 0 on the leader, and before the first.",
			sinceContact},
		{"term", "The term of Raft: it grows with each election.", func(st *store) float64 {
			return float64(st.raft.CurrentTerm())
		}},
		{"commitIndex", "The last entry of the log that is known to be on a majority of the meta nodes.",
			func(st *store) float64 { return float64(st.raft.CommitIndex()) }},
		{"appliedIndex", "The last entry of the log that is in this meta node's state.", func(st *store) float64 {
			return float64(st.raft.AppliedIndex())
		}},
		{"peers", "Meta nodes in the cluster, this one included.", func(st *store) float64 {
			f := st.raft.GetConfiguration()
			if f.Error() != nil {
				return 0
			}
			return float64(len(f.Configuration().Servers))
		}},
		{"dataNodes", "Data nodes in the cluster.", func(*store) float64 { return float64(len(s.State().DataNodes)) }},
	}
}

// serveVars serves GET /debug/vars, in the form of data nodes.
func (a *API) serveVars(w http.ResponseWriter, _ *http.Request) {
	s, values := a.server, make(map[string]float64)
	for _, m := range s.measures() {
		values[m.field] = m.value(s.st())
	}
	out := map[string]any{
		"meta": map[string]any{"name": "meta", "tags": map[string]string{"nodeID": s.raftAddr}, "values": values},
	}
	for _, name := range []string{"cmdline", "memstats"} {
		if v := expvar.Get(name); v != nil {
			out[name] = json.RawMessage(v.String())
		}
	}
	Reply(w, out, nil)
}

func zeroOrOne(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func sinceContact(st *store) float64 {
	last := st.raft.LastContact()
	if last.IsZero() || st.raft.State() == raft.Leader {
		return 0
	}
	return time.Since(last).Seconds()
}
