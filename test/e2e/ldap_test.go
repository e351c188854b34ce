//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"concord/test/process"
)

const slapdConf = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "dc=x"
rootdn "cn=root,dc=x"
rootpw rootsecret
directory %s
`

const slapdEntries = `dn: dc=x
objectClass: domain
dc: x

dn: uid=paul,dc=x
objectClass: inetOrgPerson
uid: paul
cn: Paul
sn: P
userPassword: s3cr3t

dn: uid=eve,dc=x
objectClass: inetOrgPerson
uid: eve
cn: Eve
sn: E
userPassword: evil

dn: uid=max,dc=x
objectClass: inetOrgPerson
uid: max
cn: Max
sn: M
userPassword: maximal

dn: cn=influx-admins,dc=x
objectClass: groupOfNames
cn: influx-admins
member: uid=paul,dc=x

dn: cn=dev,dc=x
objectClass: groupOfNames
cn: dev
member: uid=eve,dc=x
`

// slapd is the server of OpenLDAP.
type slapd struct {
	t    *testing.T
	conf string
	port int
	cmd  *exec.Cmd
}

const noSlapd = "this machine has no slapd: install the package of that name"

func hasSlapd() bool {
	_, err := exec.LookPath("/usr/sbin/slapd")
	return err == nil
}

func newSlapd(t *testing.T) *slapd {
	t.Helper()
	if !hasSlapd() {
		t.Skip(noSlapd)
	}
	dir := t.TempDir()
	s := &slapd{t: t, conf: filepath.Join(dir, "slapd.conf")}
	db, entries := filepath.Join(dir, "db"), filepath.Join(dir, "entries.ldif")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	for _, err := range []error{
		os.Mkdir(db, 0o700), os.WriteFile(s.conf, fmt.Appendf(nil, slapdConf, db), 0o600),
		os.WriteFile(entries, []byte(slapdEntries), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("/usr/sbin/slapadd", "-f", s.conf, "-l", entries).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v: %s", err, out)
	}
	t.Cleanup(s.stop)
	s.start()
	return s
}

func (s *slapd) start() {
	s.t.Helper()
	addr := "127.0.0.1:" + strconv.Itoa(s.port)
	s.cmd = exec.Command("/usr/sbin/slapd", "-d", "0", "-f", s.conf, "-h", "ldap://"+addr)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if !process.Poll(time.Minute, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		s.t.Fatal("slapd does not answer")
	}
}

func (s *slapd) stop() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

const ldapConf = `
enabled = %t
cache-time = "1h"
timeout = "20s"
[[servers]]
  host = "127.0.0.1"
  port = %d
  security = "none"
  bind-dn = "cn=root,dc=x"
  bind-password = "rootsecret"
  search-base-dns = ["dc=x"]
  search-filter = "(uid=%%s)"
  group-search-base-dns = ["dc=x"]
  group-membership-search-filter = "(&(objectClass=groupOfNames)(member=%%s))"
  group-attribute = "cn"
  group-search-filter = "(&(objectClass=groupOfNames)(cn=%%s))"
  group-member-attribute = "member"
  admin-groups = ["influx-admins"]
  [[servers.group-mappings]]
    group = "dev"
    role = "readers"
`

// text is a configuration with this server.
func (s *slapd) text(enabled bool) string { return fmt.Sprintf(ldapConf, enabled, s.port) }

// config is a file with that configuration.
func (s *slapd) config(t *testing.T, enabled bool) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ldap.toml")
	if err := os.WriteFile(file, []byte(s.text(enabled)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLDAP lets users of OpenLDAP in through both data nodes, for as long as the documentation says.
func TestLDAP(t *testing.T) {
	server := newSlapd(t)
	t.Setenv("INFLUXDB_META_LDAP_ALLOWED", "true")
	c := process.Start(t, process.Options{Meta: 3, Data: 2}) // without authentication until there is somebody to log in
	ask := func(n *process.Node, user, password, q string) (int, string) {
		t.Helper()
		return login{user, password}.query(t, n, "ops", q)
	}
	want := func(when, user, password, q string, code int) {
		t.Helper()
		for _, n := range c.Data {
			if got, text := ask(n, user, password, q); got != code {
				t.Errorf("%s: %s of %s at %s is %d %s, want %d", when, q, user, n.Name, got, text, code)
			}
		}
	}
	role := func(body string) {
		t.Helper()
		c.Await("the leader changes the role", func() bool {
			for _, n := range c.Meta {
				resp, err := http.Post("http://"+n.HTTP+"/role", "application/json", strings.NewReader(body))
				if err == nil {
					resp.Body.Close()
					if resp.StatusCode == http.StatusOK {
						return true
					}
				}
			}
			return false
		})
	}
	if code, text := ask(c.Data[0], "", "", "CREATE DATABASE ops"); code != http.StatusOK {
		t.Fatal(code, text)
	}
	role(`{"action":"create","role":{"name":"readers"}}`)
	role(`{"action":"add-permissions","role":{"name":"readers","permissions":{"ops":["ReadData"]}}}`)

	config := server.text(true)
	file := filepath.Join(t.TempDir(), "ldap.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := c.Ctl("ldap", "sample-config"); !strings.Contains(out, "[[servers.group-mappings]]") {
		t.Errorf("sample-config printed\n%s", out)
	}
	write("enabled = true\n")
	if _, err := c.TryCtl("ldap", "set-config", file); err == nil ||
		!strings.Contains(err.Error(), "servers: enabled = true needs") {
		t.Errorf("a bad configuration: %v", err)
	}
	if _, err := c.TryCtl("ldap", "get-config"); err == nil ||
		!strings.Contains(err.Error(), "has no LDAP configuration") {
		t.Errorf("get-config: %v", err)
	}
	write(config)
	if out := c.Ctl("ldap", "verify", "-ldap-config", file, "paul", "s3cr3t"); !strings.Contains(out,
		"administrator: true") {
		t.Errorf("verify printed\n%s", out)
	}
	if _, err := c.TryCtl("ldap", "verify", "-ldap-config", file, "paul", "wrong"); err == nil ||
		!strings.Contains(err.Error(), "password is wrong") {
		t.Errorf("verify: %v", err)
	}
	c.Ctl("ldap", "set-config", file)
	shown := c.Ctl("ldap", "get-config")
	if strings.Contains(shown, "rootsecret") || !strings.Contains(shown, "cn=root,dc=x") {
		t.Errorf("get-config printed\n%s", shown)
	}
	for _, n := range c.Meta { // as Chronograf reads it; a follower has it with the next word of the leader
		c.Await(n.Name+" shows the configuration", func() bool {
			resp, err := http.Get("http://" + n.HTTP + "/ldap/v1/config")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			if bytes.Contains(b, []byte("rootsecret")) {
				t.Errorf("%s shows the bind password: %s", n.Name, b)
			}
			return bytes.Contains(b, []byte(`"structured":{"enabled":true`))
		})
	}

	t.Setenv("INFLUXDB_HTTP_AUTH_ENABLED", "true")
	restart(t, c, c.Data...)
	want("an administrator", "paul", "s3cr3t", "SHOW USERS", 200)
	want("a reader", "eve", "evil", "SELECT * FROM m", 200)
	want("a reader", "eve", "evil", "SHOW USERS", 403)
	want("in no group", "max", "maximal", "SELECT * FROM m", 403)
	for _, bad := range [][2]string{{"", ""}, {"paul", "wrong"}, {"paul", ""}, {"*", "s3cr3t"}, {"nobody", "x"}} {
		want("a stranger", bad[0], bad[1], "SHOW DATABASES", 401)
	}
	// What get-config prints can be set again: the password stays. The caches are forgotten with it.
	write(shown)
	c.Ctl("ldap", "set-config", file)
	want("with the configuration that was shown", "paul", "s3cr3t", "SHOW USERS", 200)
	want("with the configuration that was shown", "eve", "evil", "SELECT * FROM m", 200)

	if out := c.Ctl("ldap", "warm-cache"); !strings.Contains(out, c.Data[1].TCP) {
		t.Errorf("warm-cache printed\n%s", out)
	}
	c.Await("both nodes have warmed", func() bool { return strings.Count(c.Ctl("ldap", "warm-cache", "-status"), "done") == 2 })
	c.Ctl("ldap", "warm-cache", "-cancel")

	// The server is down: who is cached stays.
	server.stop()
	want("cached", "paul", "s3cr3t", "SHOW USERS", 200)
	want("cached", "eve", "evil", "SELECT * FROM m", 200)
	want("not cached", "max", "maximal", "SHOW DATABASES", 401)
	want("cached, with another password", "paul", "wrong", "SHOW USERS", 401)
	c.Ctl("ldap", "purge-cache")
	want("purged", "paul", "s3cr3t", "SHOW USERS", 401)
	server.start()
	want("the server is back", "paul", "s3cr3t", "SHOW USERS", 200)

	write(strings.Replace(shown, "enabled = true", "enabled = false", 1))
	c.Ctl("ldap", "set-config", file)
	want("LDAP is off", "paul", "s3cr3t", "SHOW USERS", 403) // the cluster has no users of its own yet
	if code, text := ask(c.Data[0], "", "", "CREATE USER root WITH PASSWORD 'r' WITH ALL "+
		"PRIVILEGES"); code != http.StatusOK {
		t.Errorf("the first administrator is %d %s", code, text)
	}
	want("LDAP is off", "root", "r", "SHOW USERS", 200)
	want("LDAP is off", "paul", "s3cr3t", "SHOW USERS", 401)
}
