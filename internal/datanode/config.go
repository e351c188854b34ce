package datanode

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/continuous_querier"
	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/precreator"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/services/udp"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"golang.org/x/net/http/httpguts"

	"concord/internal/config"
	"concord/internal/entropy"
	"concord/internal/handoff"
	"concord/internal/listeners"
	"concord/internal/meta/passwordhash"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
)

// Config is influxdb.conf of a data node. It has a field for each section. The doc tags are the comments of the printed
// sample.
type Config struct {
	config.Notes `toml:"-"`

	BindAddress string `toml:"bind-address" doc:"Host:port at which other nodes reach this one."`
	Hostname    string `toml:"hostname" doc:"Name by which other nodes and clients reach this one; the machine's name when empty."`

	Meta            MetaConfig                `toml:"meta" doc:"What this node keeps of the cluster's metadata."`
	Data            DataConfig                `toml:"data" doc:"The storage engine."`
	Cluster         ClusterConfig             `toml:"cluster" doc:"Writes and queries over the cluster."`
	Retention       retention.Config          `toml:"retention" doc:"Deletion of old data."`
	Precreator      precreator.Config         `toml:"shard-precreation" doc:"Creation of shards ahead of time."`
	Monitor         monitor.Config            `toml:"monitor" doc:"The node's own statistics."`
	Subscriber      subscriber.Config         `toml:"subscriber" doc:"Copies of writes for subscriptions."`
	HTTPD           HTTPConfig                `toml:"http" doc:"The HTTP API for clients."`
	Logging         config.Logging            `toml:"logging" doc:"The log, on standard error."`
	ContinuousQuery continuous_querier.Config `toml:"continuous_queries" doc:"Continuous queries."`
	HintedHandoff   handoff.Config            `toml:"hinted-handoff" doc:"Durable queues of what other nodes miss."`
	TLS             trust.Protocol            `toml:"tls" doc:"TLS of all listeners and connections of this node that use it."`
	AntiEntropy     entropy.Config            `toml:"anti-entropy" doc:"Comparison and repair of replicas; SIGHUP loads this section again."`

	Graphite []graphite.Config `toml:"graphite" doc:"Points in graphite's plaintext protocol. Each such section is a listener; there may be any number."`
	Collectd []collectd.Config `toml:"collectd" doc:"Points in collectd's binary protocol, at consistency level one. Each such section is a listener; there may be any number."`
	OpenTSDB []opentsdb.Config `toml:"opentsdb" doc:"Points as lines or HTTP requests of OpenTSDB. Each such section is a listener; there may be any number."`
	UDP      []udp.Config      `toml:"udp" doc:"Points as line protocol in UDP packets, at consistency level one. Each such section is a listener; there may be any number."`
}

// MetaConfig is the [meta] section of a data node.
type MetaConfig struct {
	Dir string `toml:"dir" doc:"The node's identity, its copy of the metadata, the order of writes, and the anti-entropy queue. A meta node on the same machine needs another folder."`

	PasswordHash passwordhash.Kind `toml:"password-hash" doc:"How new passwords are hashed: bcrypt, pbkdf2-sha256 or pbkdf2-sha512. Meta nodes have the same setting. Hashes of all three kinds are known, whatever it is."`
	EnsureFIPS   bool              `toml:"ensure-fips" doc:"Do not start unless password-hash is one that FIPS allows."`

	TLSEnabled           bool         `toml:"meta-tls-enabled" doc:"Speak TLS to the meta nodes. Set it when they have [meta] https-enabled = true."`
	InsecureTLS          bool         `toml:"meta-insecure-tls" doc:"Do not verify the certificates of the meta nodes."`
	AuthEnabled          bool         `toml:"meta-auth-enabled" doc:"Set it when the meta nodes have [meta] auth-enabled = true. The shared secret must be set, too."`
	InternalSharedSecret trust.Secret `toml:"meta-internal-shared-secret" doc:"The shared secret of the cluster. Without it nobody joins, reads metadata, writes or repairs."`
}

// DataConfig is the [data] section.
type DataConfig struct {
	tsdb.Config
	QueryLogPath string `toml:"query-log-path" doc:"File for the queries that clients send to this node, a line of JSON each; none when empty. SIGHUP opens it again."`
}

// HTTPConfig is the [http] section.
type HTTPConfig struct {
	httpd.Config
	BuildType string `toml:"build-type" doc:"The header X-Influxdb-Build of answers. Chronograf shows users and roles of a cluster when it is \"ENT\", as of InfluxDB Enterprise."`
}

// ClusterConfig is the [cluster] section: what InfluxDB 1.x has under
// [coordinator], and TLS between data nodes.
type ClusterConfig struct {
	coordinator.Config
	DialTimeout      itoml.Duration `toml:"dial-timeout" doc:"Time that making a connection to another data node may take."`
	MaxQueryMemory   itoml.SSize    `toml:"max-query-memory" doc:"Bytes that the queries of this node may hold together. The largest query is ended when they need more. 0 is a quarter of the memory that the process may have, and -1 is no limit."`
	MaxNewGroups     int            `toml:"max-new-shard-groups" doc:"Shard groups that one write of a client may make. Points with random times need one each, and a shard on each owner. 0 is no limit."`
	VectorAggregates bool           `toml:"vector-aggregates" doc:"Compute count, sum, mean, min, max, first and last from whole blocks of the files. False leaves them to the engine, point by point: the answers are the same."`
	IncompleteReads  string         `toml:"incomplete-reads" doc:"What happens to a query when no whole copy of a shard can be read: \"warn\" answers from what there is, with a warning that names the shards, and \"error\" fails."`
	OSSBackup        string         `toml:"oss-backup" doc:"Who may use influxd backup and influxd restore of InfluxDB OSS through bind-address. Their protocol has no passwords and no TLS. \"auto\" is everybody, but nobody when authentication, a shared secret or TLS between nodes is set; \"all\" is everybody, \"local\" programs on this machine, and \"none\" nobody."`
	trust.TLS
}

// The values of incomplete-reads.
const (
	warnIncomplete = "warn"
	failIncomplete = "error"
)

// clusterTLS is that of the port for other nodes.
func (c *Config) clusterTLS() trust.TLS {
	t := c.Cluster.TLS
	t.Protocol = c.TLS
	return t
}

// metaTLS is how to reach the meta nodes.
func (c *Config) metaTLS() trust.TLS {
	t := c.clusterTLS()
	t.HTTPSEnabled, t.HTTPSInsecureTLS = c.Meta.TLSEnabled, c.Meta.InsecureTLS
	return t
}

// Program loads and prints it.
var Program = config.Program[*Config]{
	Name:         "influxd",
	Title:        "Concord data node: influxdb.conf",
	Files:        []string{"~/.influxdb/influxdb.conf", "/etc/influxdb/influxdb.conf"},
	PathVariable: "INFLUXDB_CONFIG_PATH",
	New:          NewConfig,
	Foreign:      foreign,
	Docs:         engineDocs,
	Show:         engineShow,
}

// NewConfig returns the defaults.
func NewConfig() *Config {
	c := &Config{
		BindAddress: ":8088",
		Meta:        MetaConfig{Dir: "/var/lib/influxdb/meta", PasswordHash: passwordhash.Bcrypt},
		Data:        DataConfig{Config: tsdb.NewConfig()},
		Cluster: ClusterConfig{
			Config: coordinator.NewConfig(), IncompleteReads: warnIncomplete, VectorAggregates: true, MaxNewGroups: 500,
			OSSBackup: autoBackup, DialTimeout: itoml.Duration(5 * time.Second),
		},
		Retention:       retention.NewConfig(),
		Precreator:      precreator.NewConfig(),
		Monitor:         monitor.NewConfig(),
		Subscriber:      subscriber.NewConfig(),
		HTTPD:           HTTPConfig{Config: httpd.NewConfig(), BuildType: "Concord"},
		Logging:         config.NewLogging(),
		ContinuousQuery: continuous_querier.NewConfig(),
		HintedHandoff:   handoff.NewConfig(),
		TLS:             trust.NewProtocol(),
		AntiEntropy:     entropy.NewConfig(),
		Graphite:        []graphite.Config{graphite.NewConfig()},
		Collectd:        []collectd.Config{collectd.NewConfig()},
		OpenTSDB:        []opentsdb.Config{opentsdb.NewConfig()},
		UDP:             []udp.Config{udp.NewConfig()},
	}
	c.Data.Dir = "/var/lib/influxdb/data"
	c.Data.WALDir = "/var/lib/influxdb/wal"
	c.Data.MaxConcurrentDeletes = 0 // the engine's is one shard at a time
	c.HTTPD.BindAddress = ":8086"
	return c
}

// Validate returns the first bad setting, with its name and the reason.
func (c *Config) Validate() error {
	if c.Meta.Dir == "" {
		return errors.New("[meta] dir: must be set")
	}
	if _, _, err := net.SplitHostPort(c.BindAddress); err != nil {
		return fmt.Errorf("bind-address: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.HTTPD.BindAddress); err != nil {
		return fmt.Errorf("[http] bind-address: %w", err)
	}
	if err := c.Meta.PasswordHash.Validate(c.Meta.EnsureFIPS); err != nil {
		return fmt.Errorf("[meta] %w", err)
	}
	if c.Meta.AuthEnabled && c.Meta.InternalSharedSecret == "" {
		return errors.New("[meta] meta-auth-enabled: needs meta-internal-shared-secret, the meta nodes' internal-shared-secret")
	}
	if !httpguts.ValidHeaderFieldValue(c.HTTPD.BuildType) {
		return errors.New("[http] build-type: must have printable characters alone")
	}
	if c.HTTPD.FluxEnabled {
		return errors.New("[http] flux-enabled: Flux is not part of this build; set it to false")
	}
	if p := c.Data.QueryLogPath; p != "" && !filepath.IsAbs(p) {
		return errors.New("[data] query-log-path: must be an absolute path")
	}
	if c.Cluster.DialTimeout <= 0 {
		return errors.New("[cluster] dial-timeout: must be above 0")
	}
	if v := c.Cluster.IncompleteReads; v != warnIncomplete && v != failIncomplete {
		return fmt.Errorf("[cluster] incomplete-reads: %q is neither %q nor %q", v, warnIncomplete, failIncomplete)
	}
	switch v := c.Cluster.OSSBackup; v {
	case autoBackup, allBackup, localBackup, noBackup:
	default:
		return fmt.Errorf("[cluster] oss-backup: %q is none of %q, %q, %q and %q", v, autoBackup, allBackup, localBackup, noBackup)
	}
	for key, dir := range map[string]string{"dir": c.Data.Dir, "wal-dir": c.Data.WALDir} {
		if i := strings.IndexAny(dir, `*?[`); i >= 0 {
			return fmt.Errorf("[data] %s: the storage engine takes %q for a pattern of file names, and would not find its files",
				key, dir[i:i+1])
		}
	}
	if _, err := tlsmanager.Base(c.TLS); err != nil {
		return fmt.Errorf("[tls] %w", err)
	}
	if err := c.listeners().Validate(); err != nil {
		return err
	}
	engine := c.engine()
	for _, check := range []struct {
		section string
		err     error
	}{
		{"cluster", c.Cluster.TLS.Validate()},
		{"data", engine.Validate()},
		{"logging", c.Logging.Validate()},
		{"monitor", c.Monitor.Validate()},
		{"continuous_queries", c.ContinuousQuery.Validate()},
		{"retention", c.Retention.Validate()},
		{"shard-precreation", c.Precreator.Validate()},
		{"subscriber", c.Subscriber.Validate()},
		{"hinted-handoff", c.HintedHandoff.Validate()},
		{"anti-entropy", c.AntiEntropy.Validate()},
	} {
		if check.err != nil {
			return fmt.Errorf("[%s] %w", check.section, check.err)
		}
	}
	return nil
}

// listeners are the listeners for other protocols than HTTP.
func (c *Config) listeners() listeners.Config {
	return listeners.Config{Graphite: c.Graphite, Collectd: c.Collectd, OpenTSDB: c.OpenTSDB, UDP: c.UDP}
}

// http is [http] as the engine takes it.
func (c *Config) http() httpd.Config {
	h := c.HTTPD.Config
	// Without it, the engine lets each user that has logged in read all databases.
	h.PromReadAuthEnabled = true
	h.TLS, _ = tlsmanager.Base(c.TLS) // Validate has checked it
	return h
}

// httpScheme is that of the HTTP API.
func (c *Config) httpScheme() string {
	if c.HTTPD.HTTPSEnabled {
		return "https"
	}
	return "http"
}

// engine is [data] as the storage engine takes it.
func (c *Config) engine() tsdb.Config {
	e := c.Data
	if e.MaxConcurrentDeletes == 0 {
		e.MaxConcurrentDeletes = 4 * runtime.GOMAXPROCS(0) // they wait for the disk: see docs/benchmarks.md
	}
	if e.Index == tsdb.InmemIndexName {
		// All shards of a database share this index. A delete that drops a series sorts the IDs of its measurement in
		// place, while one of another shard still reads that slice: it would leave out series.
		e.MaxConcurrentDeletes = 1
	}
	// The engine's cache of the series that have a tag value goes stale, and stays so until the value is evicted. A
	// query that does not find the value reads it from the index, and caches that. It does not notice series that were
	// written in between (engine v1.13.2, tsdb/index/tsi1/index.go: TagValueSeriesIDIterator and
	// CreateSeriesListIfNotExists). Later queries lack them, and deletes pass over them.
	e.SeriesIDSetCacheSize = 0
	e.SeriesIDSetCacheMaxSize, e.SeriesIDSetCacheTargetHitRate = 0, 0 // the engine refuses them without a size
	return e.Config
}

// entropyDir is the anti-entropy service's own folder: beside the shard
// folders, never inside one, so that a wiped data folder does not take the queue along.
func (c *Config) entropyDir() string { return filepath.Join(c.Meta.Dir, "entropy") }

func (c *Config) advertised(bind string, actual net.Addr) string {
	return config.Advertised(c.Hostname, bind, actual)
}
