// Package ldapconfig is the LDAP configuration of a cluster: the TOML that influxd-ctl ldap set-config sends. The keys
// are those of InfluxDB Enterprise, and some more, which the sample names. influxd-ctl reads it too, and links no
// client of LDAP for that.
package ldapconfig

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/trust"
)

// Sample is what influxd-ctl ldap sample-config prints.
//
//go:embed sample.toml
var Sample string

// Hidden stands for a bind password that is shown to nobody.
const Hidden = "<secret>"

const (
	defaultCacheTime = itoml.Duration(10 * time.Minute)
	defaultTimeout   = itoml.Duration(5 * time.Second)
	maxTimeout       = itoml.Duration(time.Minute)
	maxServers       = 16
)

// Config is the whole configuration. It is never changed once it is in the state of the cluster, only replaced.
type Config struct {
	Enabled   bool           `toml:"enabled" json:"enabled"`
	CacheTime itoml.Duration `toml:"cache-time" json:"cache-time"` // for which an answer of a server counts
	Timeout   itoml.Duration `toml:"timeout" json:"timeout"`       // of one server for one user
	Servers   []Server       `toml:"servers" json:"servers"`       // asked in this order
}

// Server is one LDAP server, and what is where in its directory. It has a field for each setting.
type Server struct {
	Host     string `toml:"host" json:"host"`
	Port     int    `toml:"port" json:"port"` // 0 for the one of Security
	Security string `toml:"security" json:"security"`

	// PEM file; the system's when empty
	CACertificate     string `toml:"ca-certificate,omitempty" json:"ca-certificate,omitempty"`
	ClientCertificate string `toml:"client-tls-certificate,omitempty" json:"client-tls-certificate,omitempty"`
	// in the file of the certificate when empty
	ClientKey string `toml:"client-tls-private-key,omitempty" json:"client-tls-private-key,omitempty"`

	BindDN       string       `toml:"bind-dn" json:"bind-dn"` // empty to search without a login
	BindPassword trust.Secret `toml:"bind-password" json:"bind-password"`

	SearchBaseDNs []string `toml:"search-base-dns" json:"search-base-dns"`
	SearchFilter  string   `toml:"search-filter" json:"search-filter"` // %s is the name of the user

	GroupSearchBaseDNs []string `toml:"group-search-base-dns" json:"group-search-base-dns"`
	// %s is the DN of the user
	GroupMembershipFilter string `toml:"group-membership-search-filter" json:"group-membership-search-filter"`
	GroupAttribute        string `toml:"group-attribute" json:"group-attribute"`

	GroupSearchFilter    string `toml:"group-search-filter" json:"group-search-filter"` // %s is the name of a group
	GroupMemberAttribute string `toml:"group-member-attribute" json:"group-member-attribute"`

	AdminGroups   []string       `toml:"admin-groups" json:"admin-groups"`
	GroupMappings []GroupMapping `toml:"group-mappings" json:"group-mappings"`
}

// GroupMapping gives the members of a group a role of the cluster.
type GroupMapping struct {
	Group string `toml:"group" json:"group"`
	Role  string `toml:"role" json:"role"`
}

// The modes of a connection.
const (
	Plain            = "none"
	StartTLS         = "starttls"
	StartTLSInsecure = "starttls+insecure"
	LDAPS            = "ldaps"
	LDAPSInsecure    = "ldaps+insecure"
)

// Parse reads a configuration and checks it. The error is one line that names the setting.
func Parse(text string) (*Config, error) {
	c := &Config{CacheTime: defaultCacheTime, Timeout: defaultTimeout}
	meta, err := toml.Decode(text, c)
	var at toml.ParseError
	if errors.As(err, &at) {
		return nil, fmt.Errorf("line %d: %s", at.Position.Line, oneLine(at.Message))
	} else if err != nil {
		return nil, errors.New(oneLine(strings.TrimPrefix(err.Error(), "toml: ")))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%s: unknown setting: see influxd-ctl ldap sample-config", oneLine(unknown[0].String()))
	}
	for i := range c.Servers {
		s := &c.Servers[i]
		if s.Security == "" {
			s.Security = StartTLS
		}
		// One of the documented samples writes the placeholder with two percent signs.
		for _, f := range []*string{&s.SearchFilter, &s.GroupMembershipFilter, &s.GroupSearchFilter} {
			*f = strings.ReplaceAll(*f, "%%s", "%s")
		}
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (c *Config) validate() error {
	switch {
	case c.CacheTime < 0:
		return errors.New("cache-time: must not be negative")
	case c.Timeout <= 0 || c.Timeout > maxTimeout:
		return fmt.Errorf("timeout: must be above 0, and %s at most", maxTimeout)
	case c.Enabled && len(c.Servers) == 0:
		return errors.New("servers: enabled = true needs one [[servers]] at least")
	case len(c.Servers) > maxServers:
		return fmt.Errorf("servers: %d are too many, %d is the most", len(c.Servers), maxServers)
	}
	for i := range c.Servers {
		if err := c.Servers[i].validate(); err != nil {
			return fmt.Errorf("servers[%d] %w", i, err)
		}
	}
	return nil
}

func (s *Server) validate() error {
	switch s.Security {
	case Plain, StartTLS, StartTLSInsecure, LDAPS, LDAPSInsecure:
	default:
		return fmt.Errorf("security: %q is none of none, starttls, starttls+insecure, ldaps, ldaps+insecure",
			s.Security)
	}
	switch {
	case s.Host == "":
		return errors.New("host: must be set")
	case strings.ContainsAny(s.Host, "/ \t\n"):
		return fmt.Errorf("host: %q must be the name or the address of a machine, without a scheme", s.Host)
	case s.Port < 0 || s.Port > 65535:
		return fmt.Errorf("port: %d is not a port", s.Port)
	case s.ClientKey != "" && s.ClientCertificate == "":
		return errors.New("client-tls-private-key: needs client-tls-certificate")
	case s.Security == Plain && s.ClientCertificate != "":
		return errors.New("client-tls-certificate: security = \"none\" shows no certificate")
	case s.BindDN != "" && s.BindPassword == "":
		return errors.New("bind-password: must be set when bind-dn is")
	case s.BindDN == "" && s.BindPassword != "":
		return errors.New("bind-dn: must be set when bind-password is")
	case len(s.SearchBaseDNs) == 0:
		return errors.New("search-base-dns: must have one DN at least")
	case !strings.Contains(s.SearchFilter, "%s"):
		return errors.New("search-filter: must have %s, which stands for the name of the user")
	}
	if len(s.GroupSearchBaseDNs) > 0 {
		switch {
		case !strings.Contains(s.GroupMembershipFilter, "%s"):
			return errors.New("group-membership-search-filter: must have %s, which stands for the DN of the user")
		case s.GroupAttribute == "":
			return errors.New("group-attribute: must be set when group-search-base-dns is")
		case s.GroupSearchFilter != "" && !strings.Contains(s.GroupSearchFilter, "%s"):
			return errors.New("group-search-filter: must have %s, which stands for the name of a group")
		}
	} else if len(s.AdminGroups)+len(s.GroupMappings) > 0 {
		return errors.New("group-search-base-dns: must be set when there are admin-groups or group-mappings")
	}
	for i, m := range s.GroupMappings {
		if m.Group == "" || m.Role == "" {
			return fmt.Errorf("group-mappings[%d]: must have a group and a role", i)
		}
	}
	for i, g := range s.AdminGroups {
		if g == "" {
			return fmt.Errorf("admin-groups[%d]: must not be empty", i)
		}
	}
	return nil
}

// Addr is the host:port of the server.
func (s *Server) Addr() string {
	port := s.Port
	if port == 0 {
		port = 389
		if s.TLSFirst() {
			port = 636
		}
	}
	return net.JoinHostPort(strings.Trim(s.Host, "[]"), strconv.Itoa(port))
}

// TLSFirst reports whether a connection begins with TLS.
func (s *Server) TLSFirst() bool { return s.Security == LDAPS || s.Security == LDAPSInsecure }

// UsesStartTLS reports whether a connection goes over to TLS before anything else.
func (s *Server) UsesStartTLS() bool { return s.Security == StartTLS || s.Security == StartTLSInsecure }

// Insecure reports whether the certificate of the server is not verified.
func (s *Server) Insecure() bool {
	return s.Security == StartTLSInsecure || s.Security == LDAPSInsecure
}

// Roles are the roles of the members of the groups, and whether one of the groups makes them administrators.
func (s *Server) Roles(groups []string) (roles []string, admin bool) {
	in := make(map[string]bool, len(groups))
	for _, g := range groups {
		in[g] = true
	}
	had := make(map[string]bool)
	for _, m := range s.GroupMappings {
		if in[m.Group] && !had[m.Role] {
			had[m.Role] = true
			roles = append(roles, m.Role)
		}
	}
	for _, g := range s.AdminGroups {
		admin = admin || in[g]
	}
	return roles, admin
}

// Groups are all groups that mean something here, each once.
func (s *Server) Groups() (out []string) {
	had := make(map[string]bool)
	add := func(g string) {
		if !had[g] {
			had[g] = true
			out = append(out, g)
		}
	}
	for _, g := range s.AdminGroups {
		add(g)
	}
	for _, m := range s.GroupMappings {
		add(m.Group)
	}
	return out
}

// Shown returns a copy in which bind passwords are hidden.
func (c *Config) Shown() *Config {
	out := *c
	out.Servers = append([]Server{}, c.Servers...)
	for i := range out.Servers {
		if out.Servers[i].BindPassword != "" {
			out.Servers[i].BindPassword = Hidden
		}
	}
	return &out
}

// TOML is the configuration as a file.
func (c *Config) TOML() (string, error) {
	var b strings.Builder
	e := toml.NewEncoder(&b)
	e.Indent = "  "
	if err := e.Encode(c); err != nil {
		return "", fmt.Errorf("encode the LDAP configuration: %w", err)
	}
	return b.String(), nil
}

// Reveal replaces hidden bind passwords by those that the cluster has. So what get-config printed can be changed and
// set again. The password is that of a server with the same host, port, security and bind-dn: nobody gets it sent
// elsewhere by changing these. old is nil for none.
func (c *Config) Reveal(old *Config) error {
	for i := range c.Servers {
		s := &c.Servers[i]
		if s.BindPassword != Hidden {
			continue
		}
		found := false
		if old != nil {
			for _, o := range old.Servers {
				if o.Addr() == s.Addr() && o.Security == s.Security && o.CACertificate == s.CACertificate &&
					o.BindDN == s.BindDN {
					s.BindPassword, found = o.BindPassword, true
					break
				}
			}
		}
		if !found {
			return fmt.Errorf("servers[%d] bind-password: %s stands for a password that the cluster has, and it has none "+
				"for this host, port, security, ca-certificate and bind-dn: give the password", i, Hidden)
		}
	}
	return nil
}
