// Package metaconfig is influxdb-meta.conf, the configuration of a meta node. influxd-ctl reads it too, to find the
// meta node of its machine, and links no server for that.
package metaconfig

import (
	"errors"
	"fmt"
	"net"
	"time"

	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/config"
	"concord/internal/meta/passwordhash"
	"concord/internal/trust"
)

// Config is influxdb-meta.conf of a meta node. The doc tags are the comments of
// the printed sample.
type Config struct {
	config.Notes `toml:"-"`

	ReportingDisabled bool   `toml:"reporting-disabled" doc:"Nothing is ever reported. The setting is there so that existing files load."`
	Hostname          string `toml:"hostname" doc:"Name by which other nodes reach this one; the machine's name when empty."`

	Meta    NodeConfig     `toml:"meta" doc:"The cluster's metadata."`
	TLS     trust.Protocol `toml:"tls" doc:"TLS of all listeners and connections of this node that use it."`
	Logging config.Logging `toml:"logging" doc:"The log, on standard error."`

	// SingleServer makes a node without a cluster start one of itself at Open.
	SingleServer bool `toml:"-"`
}

// NodeConfig is the [meta] section. It has a field for each setting.
type NodeConfig struct {
	Dir             string `toml:"dir" doc:"The Raft log, its snapshots and this node's identity. A data node on the same machine needs another folder."`
	BindAddress     string `toml:"bind-address" doc:"Host:port of Raft, between meta nodes."`
	HTTPBindAddress string `toml:"http-bind-address" doc:"Host:port of the HTTP API, for influxd-ctl and data nodes."`

	trust.TLS

	DataUseTLS      bool `toml:"data-use-tls" doc:"Speak TLS to the data nodes. Set it when they have [cluster] https-enabled = true."`
	DataInsecureTLS bool `toml:"data-insecure-tls" doc:"Do not verify the certificates of data nodes."`

	RetentionAutocreate bool           `toml:"retention-autocreate" doc:"CREATE DATABASE makes the retention policy autogen, which keeps points for ever, unless it names another one."`
	ElectionTimeout     itoml.Duration `toml:"election-timeout" doc:"Time without a leader after which a meta node asks for votes. Longer in networks with long round trips."`
	HeartbeatTimeout    itoml.Duration `toml:"heartbeat-timeout" doc:"Time without a word of the leader after which a meta node counts it as lost."`
	LeaderLeaseTimeout  itoml.Duration `toml:"leader-lease-timeout" doc:"Time without contact to most meta nodes after which a leader steps down."`
	CommitTimeout       itoml.Duration `toml:"commit-timeout" doc:"Time after which an idle leader tells the others what is committed."`
	LeaseDuration       itoml.Duration `toml:"lease-duration" doc:"How long a data node has the right to run the continuous queries, before it asks again."`
	ClusterTracing      bool           `toml:"cluster-tracing" doc:"Log the requests of clients and the changes that nodes ask for: who, what, from where, and the status of the answer."`
	PprofEnabled        bool           `toml:"pprof-enabled" doc:"Serve /debug/pprof, for administrators where auth-enabled is true."`

	PasswordHash         passwordhash.Kind `toml:"password-hash" doc:"How new passwords are hashed: bcrypt, pbkdf2-sha256 or pbkdf2-sha512. Data nodes have the same setting. Hashes of all three kinds are known, whatever it is."`
	EnsureFIPS           bool              `toml:"ensure-fips" doc:"Do not start unless password-hash is one that FIPS allows."`
	AuthEnabled          bool              `toml:"auth-enabled" doc:"Clients, such as influxd-ctl, must log in: as an administrator, or to read a status as any user."`
	LDAPAllowed          bool              `toml:"ldap-allowed" doc:"An LDAP configuration may be set and tried: see influxd-ctl ldap. Set it on all meta nodes. One that is set works whatever this says."`
	SharedSecret         trust.Secret      `toml:"shared-secret" doc:"Signs tokens (JWT) of users for the HTTP API. Without it there are none."`
	InternalSharedSecret trust.Secret      `toml:"internal-shared-secret" doc:"The shared secret of the cluster. Without it nobody joins, reads metadata, writes or repairs."`
}

// MetaTLS is that of meta nodes.
func (c *Config) MetaTLS() trust.TLS {
	t := c.Meta.TLS
	t.Protocol = c.TLS
	return t
}

// DataTLS is how to reach data nodes.
func (c *Config) DataTLS() trust.TLS {
	t := c.MetaTLS()
	t.HTTPSEnabled, t.HTTPSInsecureTLS = c.Meta.DataUseTLS, c.Meta.DataInsecureTLS
	return t
}

// Program loads and prints it.
var Program = config.Program[*Config]{
	Name:         "influxd-meta",
	Title:        "Concord meta node: influxdb-meta.conf",
	Files:        []string{"/etc/influxdb/influxdb-meta.conf"},
	PathVariable: "INFLUXDB_META_CONFIG_PATH",
	New:          New,
	Foreign:      foreign,
}

// New returns the defaults.
func New() *Config {
	return &Config{
		Meta: NodeConfig{
			Dir: "/var/lib/influxdb/meta", BindAddress: ":8089", HTTPBindAddress: ":8091", RetentionAutocreate: true,
			ElectionTimeout: itoml.Duration(time.Second), HeartbeatTimeout: itoml.Duration(time.Second),
			LeaderLeaseTimeout: itoml.Duration(500 * time.Millisecond), CommitTimeout: itoml.Duration(50 * time.Millisecond),
			LeaseDuration: itoml.Duration(time.Minute), PprofEnabled: true,
			PasswordHash: passwordhash.Bcrypt,
		},
		TLS:     trust.NewProtocol(),
		Logging: config.NewLogging(),
	}
}

// Validate returns the first bad setting, with its name and the reason.
func (c *Config) Validate() error {
	if c.Meta.Dir == "" {
		return errors.New("[meta] dir: must be set")
	}
	if _, _, err := net.SplitHostPort(c.Meta.BindAddress); err != nil {
		return fmt.Errorf("[meta] bind-address: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.Meta.HTTPBindAddress); err != nil {
		return fmt.Errorf("[meta] http-bind-address: %w", err)
	}
	if err := c.Meta.checkTimes(); err != nil {
		return fmt.Errorf("[meta] %w", err)
	}
	if err := c.Logging.Validate(); err != nil {
		return fmt.Errorf("[logging] %w", err)
	}
	if err := c.Meta.TLS.Validate(); err != nil {
		return fmt.Errorf("[meta] %w", err)
	}
	if c.Meta.DataUseTLS && c.Meta.HTTPSCertificate == "" && c.Meta.HTTPSCA != "" {
		return errors.New("[meta] https-certificate must be set when data-use-tls and https-ca are")
	}
	if err := c.Meta.PasswordHash.Validate(c.Meta.EnsureFIPS); err != nil {
		return fmt.Errorf("[meta] %w", err)
	}
	if c.Meta.AuthEnabled && c.Meta.InternalSharedSecret == "" {
		return errors.New("[meta] auth-enabled: needs internal-shared-secret, by which nodes know each other")
	}
	return nil
}

// checkTimes returns what Raft would refuse.
func (c NodeConfig) checkTimes() error {
	const least = itoml.Duration(5 * time.Millisecond)
	for _, t := range []struct {
		key  string
		time itoml.Duration
	}{
		{"heartbeat-timeout", c.HeartbeatTimeout}, {"election-timeout", c.ElectionTimeout},
		{"leader-lease-timeout", c.LeaderLeaseTimeout}, {"commit-timeout", c.CommitTimeout},
	} {
		if t.time < least {
			return fmt.Errorf("%s: must be %s at least", t.key, least)
		}
	}
	switch {
	case c.ElectionTimeout < c.HeartbeatTimeout:
		return errors.New("election-timeout: must not be shorter than heartbeat-timeout")
	case c.LeaderLeaseTimeout > c.HeartbeatTimeout:
		return errors.New("leader-lease-timeout: must not be longer than heartbeat-timeout")
	case c.LeaseDuration < itoml.Duration(time.Second):
		return errors.New("lease-duration: must be 1s at least")
	}
	return nil
}

// Advertised is the host:port that other nodes use for a listener bound to bind.
func (c *Config) Advertised(bind string, actual net.Addr) string {
	return config.Advertised(c.Hostname, bind, actual)
}
