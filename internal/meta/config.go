package meta

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/influxdata/influxdb/logger"
	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/trust"
)

// Config is influxdb-meta.conf of a meta node. Every setting has an environment
// variable INFLUXDB_<SECTION>_<SETTING>, which wins over the file. The doc tags
// are the comments of the printed sample.
type Config struct {
	ReportingDisabled bool   `toml:"reporting-disabled" doc:"Nothing is ever reported; kept so that existing files work."`
	Hostname          string `toml:"hostname" doc:"What other nodes call this one; the machine's name when empty."`

	Meta    NodeConfig    `toml:"meta"`
	Logging logger.Config `toml:"logging"`

	// SingleServer makes a node without a cluster start one of itself at Open.
	SingleServer bool `toml:"-"`
}

// NodeConfig is the [meta] section.
type NodeConfig struct {
	Dir             string `toml:"dir" doc:"The Raft log, its snapshots and this node's identity."`
	BindAddress     string `toml:"bind-address" doc:"Raft, between meta nodes."`
	HTTPBindAddress string `toml:"http-bind-address" doc:"HTTP, for influxd-ctl and data nodes."`

	trust.TLS

	DataUseTLS      bool `toml:"data-use-tls" doc:"Speak TLS to data nodes: when their [cluster] https-enabled is true."`
	DataInsecureTLS bool `toml:"data-insecure-tls" doc:"Do not verify the certificates of data nodes."`

	AuthEnabled          bool         `toml:"auth-enabled" doc:"Ask influxd-ctl and other clients for a user, and for an administrator where they change something."`
	InternalSharedSecret trust.Secret `toml:"internal-shared-secret" doc:"What all nodes of the cluster share: without it nobody joins, reads metadata, writes or repairs."`
}

// dataTLS is how to reach data nodes.
func (c NodeConfig) dataTLS() trust.TLS {
	t := c.TLS
	t.HTTPSEnabled, t.HTTPSInsecureTLS = c.DataUseTLS, c.DataInsecureTLS
	return t
}

// NewConfig returns the defaults.
func NewConfig() *Config {
	return &Config{
		Meta:    NodeConfig{Dir: "/var/lib/influxdb/meta", BindAddress: ":8089", HTTPBindAddress: ":8091"},
		Logging: logger.NewConfig(),
	}
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
	if _, _, err := net.SplitHostPort(c.Meta.BindAddress); err != nil {
		return fmt.Errorf("[meta] bind-address: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.Meta.HTTPBindAddress); err != nil {
		return fmt.Errorf("[meta] http-bind-address: %w", err)
	}
	if err := errors.Join(c.Meta.TLS.Validate()); err != nil {
		return fmt.Errorf("[meta] %w", err)
	}
	if c.Meta.DataUseTLS && c.Meta.HTTPSCertificate == "" && c.Meta.HTTPSCA != "" {
		return errors.New("[meta] https-certificate must be set when data-use-tls and https-ca are")
	}
	if c.Meta.AuthEnabled && c.Meta.InternalSharedSecret == "" {
		return errors.New("[meta] auth-enabled: needs internal-shared-secret, by which nodes know each other")
	}
	return nil
}

// Print writes the configuration as commented TOML that LoadConfig reads back.
func (c *Config) Print(w io.Writer) error {
	fmt.Fprintln(w, "# Concord meta node. Each setting can be overridden by INFLUXDB_<SECTION>_<SETTING>")
	fmt.Fprintln(w, "# in the environment, with - as _.")
	return printTable(w, "", reflect.ValueOf(*c))
}

func printTable(w io.Writer, name string, v reflect.Value) error {
	if name != "" {
		fmt.Fprintf(w, "\n[%s]\n", name)
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("toml")
		if f.Anonymous {
			if err := printTable(w, "", v.Field(i)); err != nil {
				return err
			}
			continue
		}
		if key == "" || key == "-" {
			continue
		}
		if _, leaf := reflect.New(f.Type).Interface().(interface{ UnmarshalText([]byte) error }); f.Type.Kind() == reflect.Struct && !leaf {
			if err := printTable(w, key, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		if doc := f.Tag.Get("doc"); doc != "" {
			fmt.Fprintf(w, "\n# %s\n", doc)
		}
		if err := toml.NewEncoder(w).Encode(map[string]any{key: v.Field(i).Interface()}); err != nil {
			return fmt.Errorf("print %s: %w", key, err)
		}
	}
	return nil
}

// advertised is the host:port that others use for a listener bound to bind:
// an unspecified host becomes the configured or the machine's name.
func (c *Config) advertised(bind string, actual net.Addr) string {
	host, port, _ := net.SplitHostPort(bind)
	if _, p, err := net.SplitHostPort(actual.String()); err == nil {
		port = p // also for port 0 and for service names
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
