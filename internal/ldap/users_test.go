package ldap

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/ldap/ldapconfig"
)

// bench is Users with a server, a state that tests change, and a clock.
type bench struct {
	*Users
	dir   *directory
	state atomic.Pointer[cluster.State]
	now   atomic.Int64
}

const plain = "security = 'none'"

func configOf(t *testing.T, port int, top, server string) *ldapconfig.Config {
	t.Helper()
	c, err := ldapconfig.Parse(fmt.Sprintf(`
enabled = true
%s
[[servers]]
host = "127.0.0.1"
port = %d
%s
bind-dn = %q
bind-password = "read"
search-base-dns = ["dc=x"]
search-filter = "(uid=%%s)"
group-search-base-dns = ["dc=x"]
group-membership-search-filter = "(member=%%s)"
group-attribute = "cn"
group-search-filter = "(cn=%%s)"
group-member-attribute = "member"
admin-groups = ["ops"]
[[servers.group-mappings]]
group = "dev"
role = "readers"
`, top, port, server, readerDN))
	if err == nil {
		err = Check(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newBench(t *testing.T, dir *directory, top, server string) *bench {
	t.Helper()
	b := &bench{dir: dir}
	b.now.Store(time.Unix(1000, 0).UnixNano())
	b.set(configOf(t, dir.port(), top, server), 1)
	b.Users = NewUsers(Deps{State: b.state.Load, Now: func() time.Time { return time.Unix(0, b.now.Load()) }})
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *bench) set(c *ldapconfig.Config, number uint64) {
	st := cluster.NewState()
	read := map[string]influxql.Privilege{"db": influxql.ReadPrivilege}
	st.Roles = []cluster.Role{{Name: "readers", Privileges: read}}
	st.LDAP = &cluster.LDAP{Config: c, Version: number}
	b.state.Store(st)
}

func (b *bench) pass(d time.Duration) { b.now.Add(int64(d)) }

func TestGroupsMakeTheUser(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "", plain)
	u, err := b.Authenticate("paul", "s3cr3t")
	if err != nil {
		t.Fatal(err)
	}
	if !u.AuthorizeUnrestricted() || !slices.Equal(u.Roles, []string{"readers"}) || u.ID() != "paul" {
		t.Errorf("%+v", u)
	}
	u, err = b.Authenticate("eve", "evil") // in no group
	if err != nil || u.AuthorizeUnrestricted() || cluster.MayRead(u, "db") {
		t.Errorf("%+v, %v", u, err)
	}
	b.dir.change(func() { b.dir.answers["(member=uid=eve,dc=x)"] = b.dir.answers["(member=uid=paul,dc=x)"][:1] })
	b.pass(time.Hour)
	if u, err = b.Authenticate("eve", "evil"); err != nil || !cluster.MayRead(u, "db") || cluster.MayRead(u, "other") {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err := b.Authenticate("PAUL", "s3cr3t"); err != nil || u.Name != "paul" {
		t.Errorf("%+v, %v: want the name as the directory spells it", u, err)
	}
}

func TestNobodyElseGetsIn(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "", plain)
	for _, c := range [][2]string{
		{"paul", "wrong"}, {"paul", ""}, {"", ""}, {"", "s3cr3t"}, {"nobody", "x"}, {"two", "x"}, {"*", "s3cr3t"},
		{"paul)(uid=*", "s3cr3t"}, {"p\x00", "s3cr3t"}, {strings.Repeat("x", 10000), "x"},
	} {
		if u, err := b.Authenticate(c[0], c[1]); err == nil {
			t.Errorf("%.20q with %q is %+v", c[0], c[1], u)
		}
	}
	if _, err := b.Authenticate("paul", "wrong"); !errors.Is(err, emeta.ErrAuthenticate) {
		t.Error(err)
	}
}

func TestCacheCountsForItsTime(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "cache-time = '1m'", plain)
	login := func(password string) error { _, err := b.Authenticate("paul", password); return err }
	if err := login("s3cr3t"); err != nil {
		t.Fatal(err)
	}
	b.dir.stop()
	b.pass(59 * time.Second)
	if err := login("s3cr3t"); err != nil {
		t.Errorf("a cached user: %v", err)
	}
	if err := login("other"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("another password: %v", err)
	}
	if _, err := b.Authenticate("eve", "evil"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a user who is not cached: %v", err)
	}
	b.pass(time.Second)
	if err := login("s3cr3t"); !errors.Is(err, ErrUnavailable) || b.User("paul") != nil {
		t.Errorf("after cache-time: %v", err)
	}
}

func TestPurgeForgets(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "", plain)
	before, err := b.Authenticate("paul", "s3cr3t")
	if err != nil {
		t.Fatal(err)
	}
	b.dir.change(func() { b.dir.passwords[paulDN] = "new" })
	if _, err := b.Authenticate("paul", "s3cr3t"); err != nil {
		t.Errorf("before the purge: %v", err)
	}
	b.set(b.state.Load().LDAP.Config, 2)
	if _, err := b.Authenticate("paul", "s3cr3t"); !errors.Is(err, emeta.ErrAuthenticate) {
		t.Errorf("after the purge: %v", err)
	}
	after, err := b.Authenticate("paul", "new")
	if err != nil || after.Hash == before.Hash {
		t.Errorf("%v, hash %q", err, after.Hash)
	}
}

// A server that hangs holds up one question for all requests of a user, and no request for longer than the timeout.
func TestHungServerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	dir := newDirectory(t, nil, false)
	dir.held = make(chan struct{})
	defer close(dir.held)
	b := newBench(t, dir, "timeout = '300ms'", plain)
	var wg sync.WaitGroup
	begun := time.Now()
	for range 50 {
		wg.Go(func() {
			if _, err := b.Authenticate("paul", "s3cr3t"); !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := dir.binds.Load(); n > 10 {
		t.Errorf("50 requests of one user made %d binds", n)
	}
}

func TestReferralsAndHugeAnswersAreErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "timeout = '30s'", plain)
	b.dir.change(func() { b.dir.referral = true })
	if _, err := b.Authenticate("paul", "s3cr3t"); err == nil ||
		!strings.Contains(err.Error(), "referrals are not followed") {
		t.Error(err)
	}
	b.dir.change(func() { b.dir.referral, b.dir.huge = false, true })
	if _, err := b.Authenticate("paul", "s3cr3t"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

func TestSecurity(t *testing.T) {
	t.Parallel()
	file, pair, pool := certificate(t)
	base := &tls.Config{Certificates: []tls.Certificate{pair}}
	strict := &tls.Config{Certificates: base.Certificates, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	ca, own := fmt.Sprintf("\nca-certificate = %q", file), fmt.Sprintf("\nclient-tls-certificate = %q", file)
	for _, c := range []struct {
		name   string
		server *tls.Config
		first  bool
		text   string
		works  bool
	}{
		{"starttls", base, false, "security = 'starttls'" + ca, true},
		{"starttls of a stranger", base, false, "security = 'starttls'", false},
		{"starttls+insecure", base, false, "security = 'starttls+insecure'", true},
		{"ldaps", base, true, "security = 'ldaps'" + ca, true},
		{"ldaps of a stranger", base, true, "security = 'ldaps'", false},
		{"ldaps+insecure", base, true, "security = 'ldaps+insecure'", true},
		{"client certificate", strict, true, "security = 'ldaps'" + ca + own, true},
		{"no client certificate", strict, true, "security = 'ldaps'" + ca, false},
		{"client certificate with starttls", strict, false, "security = 'starttls'" + ca + own, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, newDirectory(t, c.server, c.first), "", c.text)
			_, err := b.Authenticate("paul", "s3cr3t")
			if c.works && err != nil || !c.works && !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
			if !c.works && b.dir.binds.Load() != 0 {
				t.Error("a password was sent")
			}
		})
	}
}

func TestWarmingKnowsMembers(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDirectory(t, nil, false), "", plain)
	if err := b.Warm(); err != nil {
		t.Fatal(err)
	}
	b.wg.Wait()
	if s := b.WarmStatus(); s.State != WarmDone || s.Users != 1 || s.Groups != 2 {
		t.Fatalf("%+v", s)
	}
	b.dir.stop()
	if u := b.User("paul"); u == nil || !u.AuthorizeUnrestricted() {
		t.Errorf("%+v", u)
	}
	if _, err := b.Authenticate("paul", "s3cr3t"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a password that was never checked: %v", err)
	}
}

func TestVerifyTellsEachStep(t *testing.T) {
	t.Parallel()
	dir := newDirectory(t, nil, false)
	b := newBench(t, dir, "", plain)
	c := b.state.Load().LDAP.Config
	lines, err := Verify(t.Context(), c, nil, cluster.NewState(), "paul", "s3cr3t")
	all := strings.Join(lines, "\n")
	if err != nil || !strings.Contains(all, "the password is right") ||
		!strings.Contains(all, `lacks the roles ["readers"]`) {
		t.Errorf("%v\n%s", err, all)
	}
	if strings.Contains(all, "s3cr3t") {
		t.Errorf("the password is shown:\n%s", all)
	}
	if _, err := Verify(t.Context(), c, nil, cluster.NewState(), "paul", "wrong"); !errors.Is(err, errWrong) {
		t.Error(err)
	}
	if _, err := Verify(t.Context(), c, nil, cluster.NewState(), "", ""); err != nil {
		t.Error(err)
	}
}

func TestBadFiltersAndDNsAreNamed(t *testing.T) {
	t.Parallel()
	c := configOf(t, 1, "", plain)
	c.Servers[0].SearchFilter = "(uid=%s"
	if err := Check(c); err == nil || !strings.HasPrefix(err.Error(), "servers[0] search-filter: ") {
		t.Error(err)
	}
	c = configOf(t, 1, "", plain)
	c.Servers[0].SearchBaseDNs = []string{"no dn"}
	if err := Check(c); err == nil || !strings.HasPrefix(err.Error(), "servers[0] search-base-dns: ") {
		t.Error(err)
	}
}

// Whatever name is sent, the filter asks for one value of one attribute.
func FuzzName(f *testing.F) {
	for _, s := range []string{"paul", "*", "a)(b=*", "\x00", "é", `\2a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) { checkEscaped(t, name) })
}
