package ldapconfig

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// documented has the keys and the forms of the documentation of InfluxDB Enterprise.
const documented = `
enabled = true
[[servers]]
  host = "ldap.example.com"
  port = 389
  security = "starttls"
  client-tls-certificate = "/var/run/client.pem"
  client-tls-private-key = "/var/run/client.key"
  bind-dn = "cn=reader,dc=example,dc=com"
  bind-password = "reader's password"
  search-base-dns = [
    "dc=example,dc=com",
  ]
  search-filter = "(uid=%%s)"
  group-search-base-dns = ["ou=groups,dc=example,dc=com"]
  group-membership-search-filter = "(&(objectClass=groupOfUniqueNames)(uniqueMember=%%s))"
  group-attribute = "ou"
  group-search-filter = "(&(objectClass=groupOfUniqueNames)(ou=%%s))"
  group-member-attribute = "uniqueMember"
  admin-groups = ["influx-admins"]
  [[servers.group-mappings]]
    group = "app-developers"
    role = "app-metrics-rw"
  [[servers.group-mappings]]
    group = "web-support"
    role = "web-traffic-ro"
`

func TestDocumentedFileLoads(t *testing.T) {
	t.Parallel()
	c, err := Parse(documented)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Enabled: true, CacheTime: defaultCacheTime, Timeout: defaultTimeout,
		Servers: []Server{{
			Host: "ldap.example.com", Port: 389, Security: StartTLS,
			ClientCertificate: "/var/run/client.pem", ClientKey: "/var/run/client.key",
			BindDN: "cn=reader,dc=example,dc=com", BindPassword: "reader's password",
			SearchBaseDNs: []string{"dc=example,dc=com"}, SearchFilter: "(uid=%s)",
			GroupSearchBaseDNs:    []string{"ou=groups,dc=example,dc=com"},
			GroupMembershipFilter: "(&(objectClass=groupOfUniqueNames)(uniqueMember=%s))", GroupAttribute: "ou",
			GroupSearchFilter: "(&(objectClass=groupOfUniqueNames)(ou=%s))", GroupMemberAttribute: "uniqueMember",
			AdminGroups: []string{"influx-admins"},
			GroupMappings: []GroupMapping{
				{Group: "app-developers", Role: "app-metrics-rw"}, {Group: "web-support", Role: "web-traffic-ro"},
			},
		}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func TestSampleLoads(t *testing.T) {
	t.Parallel()
	c, err := Parse(Sample)
	if err != nil {
		t.Fatal(err)
	}
	if time.Duration(c.CacheTime) != 10*time.Minute || c.Servers[0].Addr() != "ldap.example.com:389" {
		t.Errorf("%+v", c)
	}
}

func TestBadConfigurationsAreNamed(t *testing.T) {
	t.Parallel()
	const least = "host='h'\nsecurity='none'\nsearch-base-dns=['dc=x']\nsearch-filter='(uid=%s)'\n"
	for text, want := range map[string]string{
		"enabled = maybe":                        "line 1: ",
		"enabled = 3":                            "line 1 (last key \"enabled\"): ",
		"enabeld = true":                         "enabeld: unknown setting",
		"enabled = true":                         "servers: enabled = true needs",
		"cache-time = '-1s'":                     "cache-time: must not be negative",
		"timeout = '0s'":                         "timeout: must be above 0",
		"timeout = '1h'":                         "timeout: must be above 0, and 1m0s at most",
		"[[servers]]\n":                          "servers[0] host: must be set",
		"[[servers]]\n" + least + "nick='x'":     "servers.nick: unknown setting",
		"[[servers]]\n" + least + "port=70000":   "servers[0] port: 70000 is not a port",
		"[[servers]]\n" + least + "bind-dn='cn'": "servers[0] bind-password: must be set",
		"[[servers]]\nhost='ldap://h'":           "servers[0] host: \"ldap://h\" must be",
		"[[servers]]\nhost='h'\nsecurity='tls'":  "servers[0] security: \"tls\" is none of",
		"[[servers]]\nhost='h'":                  "servers[0] search-base-dns: ",
		"[[servers]]\nhost='h'\nsearch-base-dns=['dc=x']\nsearch-filter='(uid=x)'": "servers[0] search-filter: must have %s",
		"[[servers]]\n" + least + "admin-groups=['a']": "servers[0] " +
			"group-search-base-dns: must be set",
		"[[servers]]\n" + least + "client-tls-private-key='k'": "servers[0] " +
			"client-tls-private-key: needs",
		"[[servers]]\n" + least + "client-tls-certificate='k'": "servers[0] " +
			"client-tls-certificate: security",
		"[[servers]]\n" + least + "group-search-base-dns=['x']": "servers[0] " +
			"group-membership-search-filter: must",
		"[[servers]]\n" + least + "group-search-base-dns=['x']\n" +
			"group-membership-search-filter='(member=%s)'\ngroup-attribute='cn'\n[[servers.group-mappings]]\ngroup='g'": "servers[0] group-mappings[0]: must have",
	} {
		if _, err := Parse(text); err == nil || !strings.HasPrefix(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestHiddenPasswordsComeBackForTheSameServer(t *testing.T) {
	t.Parallel()
	old, err := Parse(documented)
	if err != nil {
		t.Fatal(err)
	}
	text, err := old.Shown().TOML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "reader's") {
		t.Errorf("the password is shown:\n%s", text)
	}
	again, err := Parse(text)
	if err == nil {
		err = again.Reveal(old)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(old, again); diff != "" {
		t.Error(diff)
	}
	for from, to := range map[string]string{
		"ldap.example.com": "evil.example.com", "389": "390", "starttls": "none", "cn=reader": "cn=other",
	} {
		changed := strings.Replace(text, from, to, 1)
		if to == "none" {
			changed = strings.Replace(strings.Replace(changed, "client-tls-certificate", "#", 1),
				"client-tls-private-key", "#", 1)
		}
		c, err := Parse(changed)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Reveal(old); err == nil {
			t.Errorf("the password goes to a server with %s", to)
		}
		if err := c.Reveal(nil); err == nil {
			t.Error("a hidden password is taken for one")
		}
	}
}

func TestGroupsGiveRoles(t *testing.T) {
	t.Parallel()
	c, err := Parse(documented)
	if err != nil {
		t.Fatal(err)
	}
	s := c.Servers[0]
	roles, admin := s.Roles([]string{"web-support", "other", "app-developers"})
	if diff := cmp.Diff([]string{"app-metrics-rw", "web-traffic-ro"}, roles); diff != "" || admin {
		t.Errorf("administrator: %v\n%s", admin, diff)
	}
	if roles, admin := s.Roles([]string{"influx-admins"}); len(roles) != 0 || !admin {
		t.Errorf("%v, %v", roles, admin)
	}
}

// Whatever is sent: a configuration that is taken can be stored, shown and read again.
func FuzzParse(f *testing.F) {
	f.Add(documented)
	f.Add(Sample)
	f.Add("[[servers]]\nhost='h'\nsecurity='none'\nsearch-base-dns=['dc=x']\nsearch-filter='(uid=%s)'")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than one line", err)
			}
			return
		}
		shown, err := c.TOML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(shown)
		if err != nil {
			t.Fatalf("%v of\n%s", err, shown)
		}
		a, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(again)
		if string(a) != string(b) && !strings.Contains(string(a), "null") && !strings.Contains(string(a), "[]") {
			t.Errorf("%s became %s", a, b)
		}
	})
}
