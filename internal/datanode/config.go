package datanode

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/logger"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/services/continuous_querier"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/precreator"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxdb/services/subscriber"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy"
	"concord/internal/handoff"
	"concord/internal/trust"
)

// Config is influxdb.conf of a data node. Every setting has an environment
// variable INFLUXDB_<SECTION>_<SETTING>, which wins over the file.
type Config struct {
	BindAddress string `toml:"bind-address"` // host:port, other nodes reach it here
	Hostname    string `toml:"hostname"`     // what others call this node; the machine's name when empty

	Meta            MetaConfig                `toml:"meta"`
	Data            tsdb.Config               `toml:"data"`
	Cluster         ClusterConfig             `toml:"cluster"`
	Retention       retention.Config          `toml:"retention"`
	Precreator      precreator.Config         `toml:"shard-precreation"`
	Monitor         monitor.Config            `toml:"monitor"`
	Subscriber      subscriber.Config         `toml:"subscriber"`
	HTTPD           httpd.Config              `toml:"http"`
	Logging         logger.Config             `toml:"logging"`
	ContinuousQuery continuous_querier.Config `toml:"continuous_queries"`
	HintedHandoff   handoff.Config            `toml:"hinted-handoff"`
	AntiEntropy     entropy.Config            `toml:"anti-entropy"`
}

// MetaConfig is the [meta] section of a data node.
type MetaConfig struct {
	Dir string `toml:"dir" doc:"The node's identity, its cached copy of the metadata, and the anti-entropy queue."`

	TLSEnabled           bool         `toml:"meta-tls-enabled" doc:"Speak TLS to the meta nodes: when their [meta] https-enabled is true."`
	InsecureTLS          bool         `toml:"meta-insecure-tls" doc:"Do not verify the certificates of the meta nodes."`
	AuthEnabled          bool         `toml:"meta-auth-enabled" doc:"The meta nodes have auth-enabled: then the shared secret must be set."`
	InternalSharedSecret trust.Secret `toml:"meta-internal-shared-secret" doc:"What all nodes of the cluster share: without it nobody joins, reads metadata, writes or repairs."`
}

// ClusterConfig is the [cluster] section: what InfluxDB 1.x has under
// [coordinator], and TLS between data nodes.
type ClusterConfig struct {
	coordinator.Config
	trust.TLS
}

// metaTLS is how to reach the meta nodes.
func (c *Config) metaTLS() trust.TLS {
	t := c.Cluster.TLS
	t.HTTPSEnabled, t.HTTPSInsecureTLS = c.Meta.TLSEnabled, c.Meta.InsecureTLS
	return t
}

// NewConfig returns the defaults.
func NewConfig() *Config {
	c := &Config{
		BindAddress:     ":8088",
		Meta:            MetaConfig{Dir: "/var/lib/influxdb/meta"},
		Data:            tsdb.NewConfig(),
		Cluster:         ClusterConfig{Config: coordinator.NewConfig()},
		Retention:       retention.NewConfig(),
		Precreator:      precreator.NewConfig(),
		Monitor:         monitor.NewConfig(),
		Subscriber:      subscriber.NewConfig(),
		HTTPD:           httpd.NewConfig(),
		Logging:         logger.NewConfig(),
		ContinuousQuery: continuous_querier.NewConfig(),
		HintedHandoff:   handoff.NewConfig(),
		AntiEntropy:     entropy.NewConfig(),
	}
	c.Data.Dir = "/var/lib/influxdb/data"
	c.Data.WALDir = "/var/lib/influxdb/wal"
	c.HTTPD.BindAddress = ":8086"
	return c
}

// LoadConfig reads the file at path over the defaults, then the environment.
// An empty path means defaults and environment alone. Unknown keys and bad
// values are errors that name the key.
func LoadConfig(path string, getenv func(string) string) (*Config, error) {
	c := NewConfig()
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		md, err := toml.Decode(string(b), c)
		if err != nil {
			var pe toml.ParseError
			if errors.As(err, &pe) {
				return nil, fmt.Errorf("configuration %s: line %d: key %q: %s", path, pe.Position.Line, pe.LastKey, pe.Message)
			}
			return nil, fmt.Errorf("configuration %s: %w", path, err)
		}
		if un := md.Undecoded(); len(un) > 0 {
			names := make([]string, len(un))
			for i, k := range un {
				names[i] = k.String()
			}
			return nil, fmt.Errorf("configuration %s: unknown settings: %s", path, strings.Join(names, ", "))
		}
	}
	if _, err := itoml.ApplyEnvOverrides(getenv, "INFLUXDB", c); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// Validate returns the first bad setting, with its name and the reason.
func (c *Config) Validate() error {
	if c.Meta.Dir == "" {
		return errors.New("[meta] dir must be set")
	}
	if _, _, err := net.SplitHostPort(c.BindAddress); err != nil {
		return fmt.Errorf("bind-address: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.HTTPD.BindAddress); err != nil {
		return fmt.Errorf("[http] bind-address: %w", err)
	}
	if c.Meta.AuthEnabled && c.Meta.InternalSharedSecret == "" {
		return errors.New("[meta] meta-auth-enabled: needs meta-internal-shared-secret, the meta nodes' internal-shared-secret")
	}
	if c.HTTPD.FluxEnabled {
		return errors.New("[http] flux-enabled: Flux is not part of this build; set it to false")
	}
	for _, check := range []struct {
		section string
		err     error
	}{
		{"cluster", c.Cluster.TLS.Validate()},
		{"data", c.Data.Validate()},
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

// Print writes the configuration as TOML that LoadConfig reads back.
func (c *Config) Print(w io.Writer) error {
	fmt.Fprintln(w, "# Concord data node. Each setting can be overridden by INFLUXDB_<SECTION>_<SETTING>")
	fmt.Fprintln(w, "# in the environment, with - as _.")
	return toml.NewEncoder(w).Encode(c)
}

// entropyDir is the anti-entropy service's own folder: beside the shard
// folders, never inside one, so that a wiped data folder does not take the queue along.
func (c *Config) entropyDir() string { return filepath.Join(c.Meta.Dir, "entropy") }

// advertised is the host:port that others use for a listener bound to bind:
// an unspecified host becomes the configured or the machine's name.
func (c *Config) advertised(bind string, actual net.Addr) string {
	host, port, _ := net.SplitHostPort(bind)
	if _, p, err := net.SplitHostPort(actual.String()); err == nil && port == "0" {
		port = p
	}
	if c.Hostname != "" {
		host = c.Hostname
	} else if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		if name, err := os.Hostname(); err == nil {
			host = name
		} else {
			host = "localhost"
		}
	}
	return net.JoinHostPort(host, port)
}
