package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"concord/internal/cluster"
	"concord/internal/ldap/ldapconfig"
)

const (
	// maxAnswers bounds the bytes that a server may send about one user, and maxWarm about all groups.
	maxAnswers = 8 << 20
	maxWarm    = 256 << 20
	maxName    = 512 // bytes of a user's name
)

var (
	errUnknown   = errors.New("the user is not in the directory")
	errAmbiguous = errors.New("the search filter finds more than one user")
	errWrong     = errors.New("the password is wrong, or the user may not log in")
	errReferral  = errors.New("the server refers to another one, and referrals are not followed: name that server")
)

// notes gets a line for each step.
type notes func(format string, args ...any)

func silent(string, ...any) {}

// session is a connection to a server. It ends with its context.
type session struct {
	server *ldapconfig.Server
	conn   *goldap.Conn
	limit  time.Duration // of one search, as the server is told
	note   notes
	stop   func() bool
}

// dial connects. base is what [tls] says, nil for nothing. The server may send so many bytes.
func dial(
	ctx context.Context, s *ldapconfig.Server, base *tls.Config, bytes int64, limit time.Duration, note notes,
) (*session, error) {
	conf, err := tlsOf(s, base)
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return nil, err
	}
	if until, ok := ctx.Deadline(); ok {
		raw.SetDeadline(until)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	var conn net.Conn = &bounded{Conn: raw, left: bytes}
	if s.TLSFirst() {
		over := tls.Client(conn, conf)
		if err := over.HandshakeContext(ctx); err != nil {
			stop()
			raw.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		conn = over
	}
	c := goldap.NewConn(conn, s.TLSFirst())
	c.SetTimeout(limit)
	c.Start()
	out := &session{server: s, conn: c, limit: limit, note: note, stop: stop}
	if s.UsesStartTLS() {
		if err := c.StartTLS(conf); err != nil {
			out.close()
			return nil, fmt.Errorf("StartTLS: %w", explain(err))
		}
	}
	note("connected to %s, security %s", s.Addr(), s.Security)
	return out, nil
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}

// tlsOf is how to speak TLS to a server; nil for not at all. It reads files.
func tlsOf(s *ldapconfig.Server, base *tls.Config) (*tls.Config, error) {
	if s.Security == ldapconfig.Plain {
		return nil, nil
	}
	c := &tls.Config{}
	if base != nil {
		c = base.Clone()
	}
	c.ServerName, c.InsecureSkipVerify = strings.Trim(s.Host, "[]"), s.Insecure()
	if s.CACertificate != "" {
		pem, err := os.ReadFile(s.CACertificate)
		if err != nil {
			return nil, fmt.Errorf("ca-certificate: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca-certificate: %s has no certificate", s.CACertificate)
		}
	}
	if s.ClientCertificate != "" {
		key := s.ClientKey
		if key == "" {
			key = s.ClientCertificate
		}
		pair, err := tls.LoadX509KeyPair(s.ClientCertificate, key)
		if err != nil {
			return nil, fmt.Errorf("client-tls-certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// bounded is a connection from which only so many bytes are read.
type bounded struct {
	net.Conn
	left int64
}

var errTooMuch = errors.New("the server sends too much")

// Read reads what is left to read. One goroutine reads at a time.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooMuch
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.Conn.Read(p)
	b.left -= int64(n)
	return n, err
}

// explain says what an error of the library means.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case goldap.IsErrorWithCode(err, goldap.LDAPResultReferral):
		return errReferral
	}
	return err
}

// bindReader logs in as the one who searches.
func (s *session) bindReader() error {
	if s.server.BindDN == "" {
		s.note("searching without a login: there is no bind-dn")
		return nil
	}
	if err := s.conn.Bind(s.server.BindDN, string(s.server.BindPassword)); err != nil {
		return fmt.Errorf("log in as bind-dn %s: %w", s.server.BindDN, explain(err))
	}
	s.note("logged in as bind-dn %s", s.server.BindDN)
	return nil
}

// bindUser checks the password of a user. Neither of both may be empty: a server takes that for a login of nobody, and
// says that it is right.
func (s *session) bindUser(dn, password string) error {
	if dn == "" || password == "" {
		return errWrong
	}
	err := s.conn.Bind(dn, password)
	if err == nil {
		s.note("the password is right")
		return nil
	}
	for _, code := range refusals {
		if goldap.IsErrorWithCode(err, code) {
			s.note("the server refuses the login of %s: %v", dn, err)
			return errWrong
		}
	}
	return explain(err)
}

// refusals are what servers answer to passwords that are wrong, and to users who may not log in.
var refusals = []uint16{
	goldap.LDAPResultInvalidCredentials, goldap.LDAPResultNoSuchObject, goldap.LDAPResultInappropriateAuthentication,
	goldap.LDAPResultConstraintViolation, goldap.LDAPResultUnwillingToPerform,
	goldap.LDAPResultInsufficientAccessRights,
	goldap.LDAPResultInvalidDNSyntax, goldap.LDAPResultNoSuchAttribute,
}

// search returns the entries that a filter finds below one of several DNs. most bounds them, 0 for no bound.
func (s *session) search(bases []string, scope, most int, filter string, attributes ...string) ([]*goldap.Entry,
	error) {
	var out []*goldap.Entry
	for _, base := range bases {
		r, err := s.conn.Search(&goldap.SearchRequest{
			BaseDN: base, Scope: scope, DerefAliases: goldap.NeverDerefAliases, SizeLimit: most,
			EnforceSizeLimit: most > 0,
			TimeLimit:        int(s.limit/time.Second) + 1, Filter: filter, Attributes: attributes,
		})
		if err != nil {
			return nil, fmt.Errorf("search %s below %q: %w", filter, base, explain(err))
		}
		// Referrals that come beside entries are for parts of the tree that other servers have: they are left out.
		out = append(out, r.Entries...)
	}
	return out, nil
}

// find returns the DN of a user, and the name as the directory spells it: servers take names in upper case, or with
// spaces, for the same, and permissions do not.
func (s *session) find(name string) (dn, spelled string, err error) {
	if name == "" || len(name) > maxName {
		return "", "", errUnknown
	}
	filter := strings.ReplaceAll(s.server.SearchFilter, "%s", goldap.EscapeFilter(name))
	attribute := nameAttribute(s.server.SearchFilter)
	ask := attribute
	if ask == "" {
		ask = "1.1" // no attributes
	}
	found, err := s.search(s.server.SearchBaseDNs, goldap.ScopeWholeSubtree, 2, filter, ask)
	if goldap.IsErrorWithCode(err, goldap.LDAPResultSizeLimitExceeded) || errors.Is(err, goldap.ErrSizeLimitExceeded) {
		return "", "", errAmbiguous
	} else if err != nil {
		return "", "", err
	}
	for _, e := range found {
		switch {
		case e.DN == "":
			return "", "", errUnknown // the root of the directory, which has no password
		case dn != "" && !sameDN(dn, e.DN): // bases may overlap
			return "", "", errAmbiguous
		}
		dn, spelled = e.DN, spelling(name, e.GetEqualFoldAttributeValues(attribute))
	}
	if dn == "" {
		s.note("%s finds nobody", filter)
		return "", "", errUnknown
	}
	s.note("%s finds %s", filter, dn)
	return dn, spelled, nil
}

// sameDN reports whether two DNs name the same entry.
func sameDN(a, b string) bool {
	x, err := goldap.ParseDN(a)
	y, err2 := goldap.ParseDN(b)
	if err != nil || err2 != nil {
		return a == b
	}
	return x.EqualFold(y)
}

// spelling is the name that the directory has for the one that was given. One that matched in another way, for example
// an address of mail, is replaced by the first.
func spelling(given string, values []string) string {
	if len(values) == 0 || slices.Contains(values, given) {
		return given
	}
	for _, v := range values {
		if strings.EqualFold(v, given) {
			return v
		}
	}
	return values[0]
}

var namePart = regexp.MustCompile(`\(\s*([A-Za-z][A-Za-z0-9;.-]*)\s*=\s*%s\s*\)`)

// nameAttribute is the attribute that has the names of users: the first one of the search filter that is compared with
// the name. It is empty when there is none.
func nameAttribute(filter string) string {
	if m := namePart.FindStringSubmatch(filter); m != nil {
		return m[1]
	}
	return ""
}

// groups returns the groups of a user.
func (s *session) groups(dn string) (out []string, err error) {
	if len(s.server.GroupSearchBaseDNs) == 0 {
		return nil, nil
	}
	filter := strings.ReplaceAll(s.server.GroupMembershipFilter, "%s", goldap.EscapeFilter(dn))
	found, err := s.search(s.server.GroupSearchBaseDNs, goldap.ScopeWholeSubtree, 0, filter, s.server.GroupAttribute)
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		out = append(out, e.GetEqualFoldAttributeValues(s.server.GroupAttribute)...)
	}
	s.note("%s finds the groups %q", filter, out)
	return out, nil
}

// identify finds a user, and what the groups make of it.
func (s *session) identify(name string) (person, error) {
	dn, spelled, err := s.find(name)
	if err != nil {
		return person{}, err
	}
	groups, err := s.groups(dn)
	if err != nil {
		return person{}, err
	}
	p := person{name: spelled, dn: dn, server: s.server.Addr()}
	p.roles, p.admin = s.server.Roles(groups)
	s.note("user %s has the roles %q, administrator: %v", p.name, p.roles, p.admin)
	return p, nil
}

// person is a user as a server knows it.
type person struct {
	name, dn string
	server   string
	roles    []string
	admin    bool
}

// rolesMissing are the roles of a person that the cluster does not have.
func (p person) rolesMissing(st *cluster.State) (out []string) {
	for _, r := range p.roles {
		if _, ok := st.Role(r); !ok {
			out = append(out, r)
		}
	}
	return out
}
