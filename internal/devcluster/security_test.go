package devcluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/meta/metaconfig"
	"concord/internal/meta/wire"
	"concord/internal/page"
	"concord/internal/rpc"
	"concord/internal/trust"
)

// authority is a CA for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	path string // of its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key, a.path = a.sign("ca",
		&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return a
}

// sign makes a certificate with its key in one file.
func (a *authority) sign(
	name string, c, parent *x509.Certificate, signer *ecdsa.PrivateKey,
) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(100*24*time.Hour)
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: k})...)
	path := filepath.Join(a.dir, name+".pem")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		a.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return parsed, key, path
}

// node makes a certificate for 127.0.0.1.
func (a *authority) node(name string) string {
	_, _, path := a.sign(name, &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, a.cert, a.key)
	return path
}

const testSecret = trust.Secret("what all nodes share")

// startSecure starts two data nodes and a meta node with everything on: TLS on
// all ports, mutual between nodes, the shared secret, and users.
func startSecure(t *testing.T, ca *authority) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	node := trust.TLS{HTTPSEnabled: true, HTTPSCertificate: ca.node("node"), HTTPSCA: ca.path}
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 2,
		MetaConfig: func(c *metaconfig.Config) {
			c.Meta.TLS, c.Meta.DataUseTLS = node, true
			c.Meta.AuthEnabled, c.Meta.InternalSharedSecret = true, testSecret
		},
		DataConfig: func(c *datanode.Config) {
			c.Cluster.TLS, c.Meta.TLSEnabled = node, true
			c.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
			c.Meta.AuthEnabled, c.Meta.InternalSharedSecret = true, testSecret
			c.HTTPD.HTTPSEnabled, c.HTTPD.HTTPSCertificate = true, node.HTTPSCertificate
			c.HTTPD.AuthEnabled, c.HTTPD.PingAuthEnabled, c.HTTPD.PprofAuthEnabled = true, true, true
			c.HTTPD.SharedSecret = "of the clients"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, c
}

func (a *authority) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool},
		DisableKeepAlives: true}}
}

// secure is a cluster with everything on, and the users root, who may do all, and paul, who may read one database.
type secure struct {
	*devcluster.Cluster
	ctx  context.Context
	http *http.Client
}

// askAt sends a request to a node by its HTTP address. user is empty for nobody.
func (s *secure) askAt(t *testing.T, addr, user, method, path string, form url.Values, body string) (int, string) {
	t.Helper()
	target := "https://" + addr + path + "?" + form.Encode()
	req, err := http.NewRequestWithContext(s.ctx, method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "pw")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// ask sends a request to a data node.
func (s *secure) ask(t *testing.T, node int, user, method, path string, form url.Values, body string) (int, string) {
	t.Helper()
	return s.askAt(t, s.Data[node].HTTPAddr(), user, method, path, form, body)
}

func (s *secure) query(t *testing.T, node int, user, text string) (int, string) {
	t.Helper()
	return s.ask(t, node, user, "POST", "/query", url.Values{"db": {"db"}, "q": {text}}, "")
}

func TestClusterOverTLSWithUsers(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	ctx, c := startSecure(t, ca)
	s := &secure{Cluster: c, ctx: ctx, http: ca.client()}
	s.addUsers(t)
	t.Run("a reader reads", func(t *testing.T) {
		for node := range s.Data {
			code, body := s.query(t, node, "paul", "SELECT sum(v) FROM m")
			if code != 200 || !strings.Contains(body, ",3]") {
				t.Errorf("node %d: %d %s", node+1, code, body)
			}
		}
	})
	t.Run("each route of a data node is guarded", s.testDataRoutes)
	t.Run("where databases are named, a reader sees its own", s.testShardStatus)
	t.Run("only readers see series and values", s.testWhoSeesWhat)
	t.Run("each route of a meta node is guarded", s.testMetaRoutes)
	t.Run("each route of the page is guarded", s.testPage)
	t.Run("who loses all rights may do nothing", s.testRevokeAll)
}

// testRevokeAll takes from a user all that it may do with a database, which is more than the engine knows of.
func (s *secure) testRevokeAll(t *testing.T) {
	grant := `{"action": "add-permissions", "user": {"name": "paul", "permissions": {"db": ["DropData"]}}}`
	if code, body := s.askAt(t, s.Meta.HTTPAddr(), "root", "POST", "/user", nil, grant); code != 200 {
		t.Fatalf("grant: %d %s", code, body)
	}
	deletes := func() int {
		code, _ := s.query(t, 0, "paul", "DROP SERIES FROM none")
		return code
	}
	if err := s.Wait(s.ctx, func() bool { return deletes() == 200 }); err != nil {
		t.Fatal("the user may not delete")
	}
	if code, body := s.query(t, 0, "root", "REVOKE ALL ON db FROM paul"); code != 200 ||
		strings.Contains(body, "error") {
		t.Fatalf("%d %s", code, body)
	}
	if err := s.Wait(s.ctx, func() bool { return deletes() == 403 }); err != nil {
		t.Error("the user may still delete")
	}
}

// addUsers makes the users and the databases db, which has points, and other.
func (s *secure) addUsers(t *testing.T) {
	t.Helper()
	if code, body := s.query(t, 0, "", "CREATE USER root WITH PASSWORD 'pw' WITH ALL PRIVILEGES"); code != 200 {
		t.Fatalf("the first user: %d %s", code, body)
	}
	if err := s.Wait(s.ctx, func() bool {
		code, _ := s.query(t, 1, "root", "SHOW DATABASES")
		return code == 200
	}); err != nil {
		t.Fatal("the user never reached the other node")
	}
	for _, text := range []string{
		"CREATE USER paul WITH PASSWORD 'pw'", "CREATE DATABASE db WITH REPLICATION 2", "CREATE DATABASE other",
		"GRANT READ ON db TO paul",
	} {
		if code, body := s.query(t, 1, "root", text); code != 200 || strings.Contains(body, "error") {
			t.Fatalf("%s: %d %s", text, code, body)
		}
	}
	if code, body := s.ask(t, 0, "root", "POST", "/write", url.Values{"db": {"db"}, "consistency": {"all"}},
		"m,host=a v=1 1000000000\nm,host=b v=2 1000000000"); code != 204 {
		t.Fatalf("write: %d %s", code, body)
	}
	if err := s.Wait(s.ctx, func() bool {
		for node := range s.Data {
			if code, _ := s.query(t, node, "paul", "SELECT * FROM m"); code != 200 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal("the user's rights never reached all nodes")
	}
}

// testDataRoutes asks each route as nobody and as a user who may only read.
func (s *secure) testDataRoutes(t *testing.T) {
	for _, r := range []struct {
		method, path   string
		form           url.Values
		nobody, reader int // codes
	}{
		{"GET", "/query", url.Values{"q": {"SHOW DATABASES"}}, 401, 200},
		{"POST", "/query", url.Values{"q": {"CREATE DATABASE x"}}, 401, 403},
		{"POST", "/query", url.Values{"q": {"SELECT * FROM m"}, "db": {"other"}}, 401, 403},
		{"POST", "/query", url.Values{"q": {"SHOW USERS"}}, 401, 403},
		{"POST", "/query", url.Values{"q": {"DROP MEASUREMENT m"}, "db": {"db"}}, 401, 403},
		{"POST", "/write", url.Values{"db": {"db"}}, 401, 403},
		{"POST", "/api/v2/write", url.Values{"bucket": {"db"}}, 401, 403},
		{"POST", "/api/v1/prom/write", url.Values{"db": {"db"}}, 401, 403},
		{"GET", "/shard-repair/status", nil, 401, 200},
		{"GET", "/shard-repair/diff", url.Values{"id": {"1"}}, 401, 403},
		{"GET", "/shard-repair/repairs", nil, 401, 403},
		{"POST", "/shard-repair/repair", url.Values{"id": {"1"}}, 401, 403},
		{"POST", "/shard-repair/cancel-repair", url.Values{"id": {"1"}}, 401, 403},
		{"GET", "/debug/vars", nil, 401, 403},
		{"GET", "/debug/requests", nil, 401, 403},
		{"GET", "/debug/pprof/cmdline", nil, 401, 403},
		{"GET", "/metrics", nil, 401, 200},
		{"GET", "/ping", nil, 401, 204},
	} {
		code, body := s.ask(t, 0, "", r.method, r.path, r.form, "m v=1")
		if code != r.nobody || strings.Contains(body, `"results"`) {
			t.Errorf("%s %s %v by nobody: %d %.200s, want %d", r.method, r.path, r.form, code, body, r.nobody)
		}
		code, body = s.ask(t, 0, "paul", r.method, r.path, r.form, "m v=1")
		if r.reader != 0 && code != r.reader && !(r.reader == 403 && strings.Contains(body, "error")) {
			t.Errorf("%s %s %v by a reader: %d %.200s, want %d", r.method, r.path, r.form, code, body, r.reader)
		}
		for _, secret := range []string{string(testSecret), "of the clients", "$2a$"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s %s tells a secret", r.method, r.path)
			}
		}
	}
}

// testPage asks for every route of the page of the cluster on a data node and on a meta node: as nobody, which is
// also what EventSource of another site is, as a reader, and as an administrator for a page of another site.
func (s *secure) testPage(t *testing.T) {
	ask := func(addr, user, site string, r page.Route) (int, string) {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel() // the stream of events goes on
		target := "https://" + addr + page.Base + r.Path + "?id=1"
		req, err := http.NewRequestWithContext(ctx, r.Method, target, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if site != "" {
			req.Header.Set("Sec-Fetch-Site", site)
		}
		if user != "" {
			req.SetBasicAuth(user, "pw")
		}
		resp, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body := make([]byte, 300)
		n, _ := io.ReadFull(resp.Body, body)
		return resp.StatusCode, string(body[:n])
	}
	for _, addr := range []string{s.Data[0].HTTPAddr(), s.Meta.HTTPAddr()} {
		for _, r := range page.Routes() {
			if code, body := ask(addr, "", "", r); !r.Public() &&
				(code != 401 || !strings.Contains(body, "log in first")) {
				t.Errorf("%s /cluster%s by nobody: %d %s", r.Method, r.Path, code, body)
			}
			if code, body := ask(addr, "paul", "", r); r.Admin() != (code == 403) {
				t.Errorf("%s /cluster%s by a reader: %d %s", r.Method, r.Path, code, body)
			}
			if code, body := ask(addr, "root", "cross-site", r); r.Method == http.MethodPost && code != 403 {
				t.Errorf("%s /cluster%s for another site: %d %s", r.Method, r.Path, code, body)
			}
		}
	}
}

func (s *secure) testShardStatus(t *testing.T) {
	for user, want := range map[string][]string{"root": {"db", "other"}, "paul": {"db"}} {
		var got wire.ShardStatus
		_, body := s.ask(t, 0, user, "GET", "/shard-status", nil, "")
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %s", err, body)
		}
		var names []string
		for _, d := range got.Databases {
			names = append(names, d.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("/shard-status by %s has the databases %v, want %v", user, names, want)
		}
	}
}

// testWhoSeesWhat asks the routes that name databases, series or values as a user without a privilege, as one who may
// manage shards and nothing else, and as an administrator.
func (s *secure) testWhoSeesWhat(t *testing.T) {
	for _, text := range []string{
		"CREATE USER nobody WITH PASSWORD 'pw'", "CREATE USER \"shards\" WITH PASSWORD 'pw'",
		"CREATE DATABASE hiddendb WITH REPLICATION 2",
		"CREATE SUBSCRIPTION sub ON hiddendb.autogen DESTINATIONS ALL 'http://me:hiddenpassword@127.0.0.1:9'",
	} {
		if code, body := s.query(t, 0, "root", text); code != 200 || strings.Contains(body, "error") {
			t.Fatalf("%s: %d %s", text, code, body)
		}
	}
	grant := `{"action": "add-permissions", "user": {"name": "shards", "permissions": {"": ["ManageShard"]}}}`
	if code, body := s.askAt(t, s.Meta.HTTPAddr(), "root", "POST", "/user", nil, grant); code != 200 {
		t.Fatalf("grant: %d %s", code, body)
	}
	mustKnow(s.ctx, t, s.Cluster)
	at := time.Now().Add(-8 * 24 * time.Hour).Truncate(time.Second) // a shard that nobody writes to
	line := fmt.Sprintf("hiddenseries,host=a hiddenfield=%%di %d", at.UnixNano())
	if code, body := s.ask(t, 0, "root", "POST", "/write", url.Values{"db": {"hiddendb"}, "consistency": {"all"}},
		fmt.Sprintf(line, 0)); code != 204 {
		t.Fatalf("write: %d %s", code, body)
	}
	var shard uint64
	for _, sh := range s.Data[0].Meta.State().Shards() {
		if sh.Database == "hiddendb" {
			shard = sh.ID
		}
	}
	for node := range s.Data { // two nodes have two values of one point
		points, err := models.ParsePointsString(fmt.Sprintf(line, 4242420+node))
		if err == nil {
			err = s.Data[node].Store.WriteToShard(tsdb.WriteContext{}, shard, points)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	id := url.Values{"id": {strconv.FormatUint(shard, 10)}}
	if err := s.Wait(s.ctx, func() bool {
		s.ask(t, 0, "root", "POST", "/shard-repair/repair", id, "")
		_, body := s.ask(t, 0, "root", "GET", "/shard-repair/repairs", nil, "")
		return strings.Contains(body, "424242")
	}); err != nil {
		t.Fatal("no repair decided the conflict")
	}
	const (
		series   = "hiddenseries hiddenfield 424242" // and values
		database = "hiddendb"
	)
	secret := func(body, of string) string {
		for _, word := range strings.Fields(of) {
			if strings.Contains(body, word) {
				return word
			}
		}
		return ""
	}
	data, meta := s.Data[0].HTTPAddr(), s.Meta.HTTPAddr()
	for _, r := range []struct {
		addr, path                 string
		nobody, shards             int    // codes
		fromNobody, fromShards     string // what their answers must not have
		rootSees, subscriptionShow string // what the answer to an administrator has
	}{
		{data, "/shard-repair/status", 200, 200, series + " " + database, series, "", ""},
		{data, "/shard-repair/repairs", 403, 200, "", series, "hiddenseries", ""},
		{data, "/shard-repair/diff", 403, 403, "", "", "", ""},
		{data, "/shard-status", 200, 200, series + " " + database, series, database, ""},
		{data, "/debug/vars", 403, 403, "", "", database, ""},
		{data, "/metrics", 200, 200, series, series, database, "127.0.0.1:9"},
		{meta, "/shard-repair/status", 200, 200, series + " " + database, series, "", ""},
		{meta, "/shard-repair/repairs", 403, 200, "", series, "hiddenseries", ""},
		{meta, "/shard-repair/diff", 403, 403, "", "", "", ""},
		{meta, "/show-shards", 403, 200, "", series, database, ""},
		{meta, "/show-cluster", 403, 403, "", "", "", ""},
		{meta, "/shard-copies", 403, 200, "", series, "", ""},
		{meta, "/metrics", 200, 200, series + " " + database, series + " " + database, "", ""},
		{meta, "/status", 200, 200, series + " " + database, series + " " + database, "", ""},
	} {
		tells := func(body string) bool {
			return strings.Contains(body, r.rootSees) && strings.Contains(body, r.subscriptionShow)
		}
		for user, want := range map[string]struct {
			code   int
			hidden string
		}{
			"nobody": {r.nobody, r.fromNobody}, "shards": {r.shards, r.fromShards}, "root": {200, ""},
		} {
			code, body := s.askAt(t, r.addr, user, "GET", r.path, id, "")
			if user == "root" { // an answer lacks what a node that is late would have said
				within, cancel := context.WithTimeout(s.ctx, 30*time.Second)
				_ = s.Wait(within, func() bool {
					if tells(body) {
						return true
					}
					code, body = s.askAt(t, r.addr, user, "GET", r.path, id, "")
					return tells(body)
				})
				cancel()
			}
			if code != want.code && !(want.code == 403 && strings.Contains(body, "error")) {
				t.Errorf("%s by %s: %d %.200s, want %d", r.path, user, code, body, want.code)
			}
			if found := secret(body, want.hidden); found != "" {
				t.Errorf("%s tells %s to %s", r.path, found, user)
			}
			if strings.Contains(body, "hiddenpassword") {
				t.Errorf("%s tells %s the password of a subscription", r.path, user)
			}
			if user == "root" && !tells(body) {
				t.Errorf("%s does not tell root %s: %s", r.path, r.rootSees, body)
			}
		}
	}
}

func (s *secure) testMetaRoutes(t *testing.T) {
	for path, want := range map[string]int{
		"/status": 200, "/metrics": 200, "/shard-repair/status": 200,
		"/show-cluster": 403, "/show-shards": 403, "/shard-copies": 403,
		"/copy-shard-status": 403, "/backup/meta": 403, "/shard-repair/diff": 403, "/shard-repair/repairs": 403,
		"/user": 403,
	} {
		for user, want := range map[string]int{"": 401, "paul": want, "root": 200} {
			code, body := s.askAt(t, s.Meta.HTTPAddr(), user, "GET", path, url.Values{"id": {"1"}}, "")
			if code != want {
				t.Errorf("%s of a meta node by %q: %d %.200s, want %d", path, user, code, body, want)
			}
		}
	}
}

// TestEveryRPCIsGuarded calls every method on 8088 without TLS, without a
// certificate, without a token and with a wrong one.
func TestEveryRPCIsGuarded(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	ctx, c := startSecure(t, ca)
	addr := c.Data[0].TCPAddr()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	certificate := func(path string) []tls.Certificate {
		cert, err := tls.LoadX509KeyPair(path, path)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{cert}
	}
	wrong, _ := trust.Secret("another").Token(time.Minute)
	for _, tt := range []struct {
		name  string
		tls   *tls.Config
		token string
		code  codes.Code
	}{
		{"no TLS", nil, "", codes.Unavailable},
		{"no certificate", &tls.Config{RootCAs: pool}, "", codes.Unavailable},
		{
			"a strange certificate", &tls.Config{RootCAs: pool, Certificates: certificate(stranger.node("x"))}, "",
			codes.Unavailable,
		},
		{"no token", &tls.Config{RootCAs: pool, Certificates: certificate(ca.node("y"))}, "", codes.Unauthenticated},
		{"a wrong token", &tls.Config{RootCAs: pool, Certificates: certificate(ca.node("z"))}, wrong,
			codes.Unauthenticated},
	} {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				if tt.tls == nil {
					return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				}
				return (&tls.Dialer{Config: tt.tls}).DialContext(ctx, "tcp", addr)
			}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		call := ctx
		if tt.token != "" {
			call = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tt.token)
		}
		methods := 0
		for _, service := range rpc.Services() {
			for _, m := range service.Methods {
				methods++
				err := conn.Invoke(call, "/"+service.ServiceName+"/"+m.MethodName, &rpc.IdentifyRequest{},
					&rpc.IdentifyResponse{})
				if status.Code(err) != tt.code {
					t.Errorf("%s: %s: %v", tt.name, m.MethodName, err)
				}
			}
			for i := range service.Streams {
				methods++
				s, err := conn.NewStream(call, &service.Streams[i],
					"/"+service.ServiceName+"/"+service.Streams[i].StreamName)
				if err == nil {
					s.CloseSend()
					err = s.RecvMsg(&rpc.IdentifyResponse{})
				}
				if status.Code(err) != tt.code {
					t.Errorf("%s: %s: %v", tt.name, service.Streams[i].StreamName, err)
				}
			}
		}
		if methods < 15 {
			t.Errorf("walked %d methods only", methods)
		}
	}
}

func TestCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, c := startSecure(t, ca)
	serial := func(addr string, client *tls.Config) string {
		t.Helper()
		conn, err := tls.Dial("tcp", addr, client)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	path := ca.node("node") // the same file, another certificate
	cert, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		t.Fatal(err)
	}
	want := cert.Leaf.SerialNumber.String()
	conf := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
	addrs := []string{c.Data[0].TCPAddr(), c.Data[0].HTTPAddr(), c.Meta.HTTPAddr()}
	for _, a := range addrs {
		if serial(a, conf) == want {
			t.Errorf("%s has the new certificate before it is told", a)
		}
	}
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if serial(a, conf) != want {
			t.Errorf("%s has not the new certificate", a)
		}
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(); err == nil {
		t.Error("a damaged certificate is no error")
	}
	for _, a := range addrs {
		if serial(a, conf) != want {
			t.Errorf("%s lost its certificate", a)
		}
	}
}
