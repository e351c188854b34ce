package wire

import "encoding/json"

// The paths of influxd-ctl ldap.
const (
	LDAPConfigPath = "/ldap/v1/config" // Chronograf reads it
	LDAPVerifyPath = "/ldap/v1/verify"
	LDAPPurgePath  = "/ldap/v1/purge"
	LDAPWarmPath   = "/ldap/v1/warm"
)

// LDAPConfig is the LDAP configuration without its bind passwords; empty when there is none.
type LDAPConfig struct {
	Structured json.RawMessage `json:"structured,omitempty"`
	TOML       string          `json:"toml,omitempty"`
}

// LDAPVerify asks for a login with a configuration; with that of the cluster when Config is empty.
type LDAPVerify struct {
	Config   string `json:"config,omitempty"` // TOML
	User     string `json:"user,omitempty"`   // empty to connect to all servers alone
	Password string `json:"password,omitempty"`
}

// LDAPVerified is what came of it.
type LDAPVerified struct {
	Steps  []string `json:"steps"`
	Failed string   `json:"failed,omitempty"` // empty for a login that is right
}

// LDAPWarm tells of the warming of caches.
type LDAPWarm struct {
	Nodes []LDAPWarming `json:"nodes"`
}

// LDAPWarming is that of one data node.
type LDAPWarming struct {
	Node   string `json:"node"`  // host:port of its TCP address
	State  string `json:"state"` // none, running, done, failed, cancelled, or unknown when the node does not answer
	Groups int64  `json:"groups"`
	Users  int64  `json:"users"`
	Error  string `json:"error,omitempty"`
}
