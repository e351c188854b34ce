package datanode

import (
	"fmt"
	"net/url"
	"strconv"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/monitor/diagnostics"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/udp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// reporters are the parts of a node that have statistics, each once.
type reporters struct {
	mu   sync.Mutex // the monitor asks while parts are still being added
	list []monitor.Reporter
}

func (r *reporters) add(parts ...monitor.Reporter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, parts...)
}

// clear takes all parts out.
func (r *reporters) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil
}

// Statistics are those of all parts, for _internal, /debug/vars, SHOW STATS and /metrics.
func (r *reporters) Statistics(tags map[string]string) []models.Statistic {
	r.mu.Lock()
	list := r.list
	r.mu.Unlock()
	var out []models.Statistic
	for _, part := range list {
		out = append(out, part.Statistics(tags)...)
	}
	for _, s := range out {
		redact(s.Tags)
	}
	return out
}

// redact takes the password out of the URL of a subscription: users without privileges read /metrics.
func redact(tags map[string]string) {
	if u, err := url.Parse(tags["destination"]); err == nil && u.User != nil {
		tags["destination"] = u.Redacted()
	}
}

// newMonitor makes the monitor, which is not yet open.
func (n *Node) newMonitor() *monitor.Monitor {
	mon := monitor.New(&n.reporters, n.cfg.Monitor, &n.cfg.Data.Config)
	mon.Version, mon.MetaClient, mon.PointsWriter = n.version, n.Meta, monitorWriter{n.writer}
	mon.WithLogger(n.log)
	if l := n.Store.EngineOptions.CompactionThroughputLimiter; l != nil {
		mon.WithCompactThroughputLimiter(l)
	}
	return mon
}

// observe registers the diagnostics of SHOW DIAGNOSTICS, those of the engine's
// own server among them, and the node's metrics. The monitor is open.
func (n *Node) observe() {
	c, mon := n.cfg, n.mon
	for name, client := range map[string]diagnostics.Client{
		"cluster":           diagnostics.ClientFunc(n.diagnose),
		"config-data":       c.Data.Config,
		"config-cluster":    c.Cluster.Config,
		"config-precreator": c.Precreator,
		"config-monitor":    c.Monitor,
		"config-subscriber": c.Subscriber,
		"config-retention":  c.Retention,
		"config-httpd":      c.HTTPD,
		"config-cqs":        c.ContinuousQuery,
		"config-graphite":   graphite.Configs(c.Graphite),
		"config-collectd":   collectd.Configs(c.Collectd),
		"config-opentsdb":   opentsdb.Configs(c.OpenTSDB),
		"config-udp":        udp.Configs(c.UDP),
	} {
		mon.RegisterDiagnosticsClient(name, client)
	}
	// Two nodes may run on one host: without these their points in _internal would be the same.
	if c.Hostname != "" {
		mon.SetGlobalTag("hostname", c.Hostname)
	}
	mon.SetGlobalTag("nodeID", n.tcpAddr)
	n.tagCluster()
	n.onClose(metrics.add(n.tcpAddr, mon, n.log))
}

// tagCluster puts the cluster's id into what is stored in _internal, once there is one.
func (n *Node) tagCluster() {
	if id := n.Meta.ClusterID(); id != 0 {
		n.mon.SetGlobalTag("clusterID", id)
	}
}

// diagnose is the row `cluster` of SHOW DIAGNOSTICS.
func (n *Node) diagnose() (*diagnostics.Diagnostics, error) {
	return diagnostics.RowFromMap(map[string]any{
		"node-id":      n.Meta.NodeID(),
		"cluster-id":   strconv.FormatUint(n.Meta.ClusterID(), 10),
		"tcp-address":  n.tcpAddr,
		"http-address": n.httpAddr,
		"meta-servers": fmt.Sprint(n.Meta.MetaServers()),
		"data-nodes":   int64(len(n.Meta.DataNodes())),
	}), nil
}

// collector gives Prometheus the statistics of the data nodes of this process:
// a statistic's field is the metric influxdb_<statistic>_<field>, its tags are
// labels. The engine's /metrics serves the default registry, of which a process
// has one; the label nodeID tells its nodes apart.
//
// Each field has a type and a text in descriptions or engineDescriptions. A field that is in neither is untyped.
type collector struct {
	register sync.Once

	mu    sync.Mutex
	nodes map[string]*monitor.Monitor
}

var metrics = collector{nodes: make(map[string]*monitor.Monitor)}

// add starts to show a node's statistics; what it returns ends that.
func (c *collector) add(addr string, mon *monitor.Monitor, log *zap.Logger) (remove func() error) {
	c.register.Do(func() {
		if err := prometheus.Register(c); err != nil {
			log.Error("The statistics of this node are not in /metrics", zap.Error(err))
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[addr] = mon
	return func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.nodes[addr] == mon {
			delete(c.nodes, addr)
		}
		return nil
	}
}

// Describe says nothing: which metrics there are changes with the shards.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all statistics that are numbers.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	nodes := make(map[string]*monitor.Monitor, len(c.nodes))
	for addr, mon := range c.nodes {
		nodes[addr] = mon
	}
	c.mu.Unlock()
	for addr, mon := range nodes {
		stats, err := mon.Statistics(map[string]string{"nodeID": addr})
		if err != nil {
			continue // the engine's monitor returns none
		}
		for _, s := range distinct(stats) {
			collect(out, s)
		}
	}
}

// distinct leaves out statistics with the name and the tags of an earlier one:
// one double would fail the whole answer.
func distinct(stats []*monitor.Statistic) []*monitor.Statistic {
	seen := make(map[string]bool, len(stats))
	out := stats[:0]
	for _, s := range stats {
		key := s.Name + "," + string(models.NewTags(s.Tags).HashKey(true))
		if !seen[key] {
			seen[key] = true
			out = append(out, s)
		}
	}
	return out
}

func collect(out chan<- prometheus.Metric, s *monitor.Statistic) {
	names, values := make([]string, 0, len(s.Tags)), make([]string, 0, len(s.Tags))
	for k, v := range s.Tags {
		names, values = append(names, metricName(k)), append(values, v)
	}
	for field, v := range s.Values {
		var f float64
		switch v := v.(type) {
		case int64:
			f = float64(v)
		case int:
			f = float64(v)
		case uint64:
			f = float64(v)
		case float64:
			f = v
		default:
			continue
		}
		d := describe(s.Name, field)
		desc := prometheus.NewDesc("influxdb_"+metricName(s.Name)+"_"+metricName(field), d.help, names, nil)
		if m, err := prometheus.NewConstMetric(desc, d.kind, f, values...); err == nil {
			out <- m
		}
	}
}

// metricName replaces what a name in Prometheus cannot have.
func metricName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' && i > 0 || c == '_') {
			b[i] = '_'
		}
	}
	return string(b)
}
