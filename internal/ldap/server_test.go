package ldap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// directory is a small LDAP server. It answers searches by the text of their filter.
type directory struct {
	ln    net.Listener
	tls   *tls.Config // of StartTLS
	binds atomic.Int64
	held  chan struct{} // binds of users wait for it; nil for not at all

	mu        sync.Mutex
	passwords map[string]string          // by DN
	answers   map[string][]*goldap.Entry // by filter
	referral  bool                       // searches are answered with one
	huge      bool                       // searches are answered with more than anybody wants
	conns     map[net.Conn]struct{}
}

const (
	readerDN = "cn=reader,dc=x"
	paulDN   = "uid=paul,dc=x"
)

func entry(dn string, attributes map[string][]string) *goldap.Entry {
	return goldap.NewEntry(dn, attributes)
}

// newDirectory starts a server. over is nil for no TLS.
func newDirectory(t *testing.T, over *tls.Config, first bool) *directory {
	t.Helper()
	d := &directory{
		tls:       over,
		passwords: map[string]string{readerDN: "read", paulDN: "s3cr3t", "uid=eve,dc=x": "evil"},
		answers: map[string][]*goldap.Entry{
			"(uid=paul)": {entry(paulDN, map[string][]string{"uid": {"paul"}})},
			"(uid=PAUL)": {entry(paulDN, map[string][]string{"uid": {"paul"}})},
			"(uid=eve)":  {entry("uid=eve,dc=x", map[string][]string{"uid": {"eve"}})},
			"(uid=two)":  {entry("uid=a,dc=x", nil), entry("uid=b,dc=x", nil)},
			"(member=uid=paul,dc=x)": {
				entry("cn=dev,dc=x", map[string][]string{"cn": {"dev"}}),
				entry("cn=ops,dc=x", map[string][]string{"cn": {"ops"}}),
			},
			"(cn=dev)":        {entry("cn=dev,dc=x", map[string][]string{"member": {paulDN, "uid=gone,dc=x"}})},
			"(objectClass=*)": {entry(paulDN, map[string][]string{"uid": {"paul"}})},
		},
		conns: make(map[net.Conn]struct{}),
	}
	var err error
	if d.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if first {
		d.ln = tls.NewListener(d.ln, over)
	}
	t.Cleanup(d.stop)
	go func() {
		for {
			c, err := d.ln.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns[c] = struct{}{}
			d.mu.Unlock()
			go d.serve(c)
		}
	}()
	return d
}

func (d *directory) stop() {
	d.ln.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		c.Close()
	}
}

func (d *directory) change(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn()
}

func (d *directory) port() int { return d.ln.Addr().(*net.TCPAddr).Port }

func (d *directory) serve(c net.Conn) {
	defer c.Close()
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, op := p.Children[0].Value.(int64), p.Children[1]
		send := func(tag ber.Tag, code int64, more ...*ber.Packet) {
			r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
			r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
			r.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
			r.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
			for _, m := range more {
				r.AppendChild(m)
			}
			c.Write(envelope(id, r).Bytes())
		}
		switch op.Tag {
		case goldap.ApplicationBindRequest:
			dn, password := op.Children[1].Value.(string), op.Children[2].Data.String()
			d.binds.Add(1)
			if d.held != nil && dn != readerDN {
				<-d.held
			}
			d.mu.Lock()
			right := password == "" || d.passwords[dn] == password // as servers do: nobody is logged in
			d.mu.Unlock()
			code := int64(goldap.LDAPResultSuccess)
			if !right {
				code = goldap.LDAPResultInvalidCredentials
			}
			send(goldap.ApplicationBindResponse, code)
		case goldap.ApplicationSearchRequest:
			filter, _ := goldap.DecompileFilter(op.Children[6])
			d.mu.Lock()
			found, referral, huge := d.answers[filter], d.referral, d.huge
			d.mu.Unlock()
			if referral {
				send(goldap.ApplicationSearchResultDone, goldap.LDAPResultReferral)
				continue
			}
			for huge {
				if _, err := c.Write(entryPacket(id,
					entry("uid=x,dc=x", map[string][]string{"cn": {strings.Repeat("x", 1<<20)}}))); err != nil {
					return
				}
			}
			for _, e := range found {
				c.Write(entryPacket(id, e))
			}
			send(goldap.ApplicationSearchResultDone, goldap.LDAPResultSuccess)
		case goldap.ApplicationExtendedRequest:
			send(goldap.ApplicationExtendedResponse, goldap.LDAPResultSuccess)
			over := tls.Server(c, d.tls)
			if over.Handshake() != nil {
				return
			}
			c = over
		default:
			return
		}
	}
}

func envelope(id int64, op *ber.Packet) *ber.Packet {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	p.AppendChild(op)
	return p
}

func entryPacket(id int64, e *goldap.Entry) []byte {
	text := func(s string) *ber.Packet {
		return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
	}
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, goldap.ApplicationSearchResultEntry, nil, "")
	r.AppendChild(text(e.DN))
	all := ber.NewSequence("")
	for _, a := range e.Attributes {
		one := ber.NewSequence("")
		one.AppendChild(text(a.Name))
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		for _, v := range a.Values {
			values.AppendChild(text(v))
		}
		one.AppendChild(values)
		all.AppendChild(one)
	}
	r.AppendChild(all)
	return envelope(id, r).Bytes()
}

// certificate makes a certificate of 127.0.0.1, good for servers and clients, in a PEM file with its key.
func certificate(t *testing.T) (file string, pair tls.Certificate, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	text := append(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	file = filepath.Join(t.TempDir(), "cert"+strconv.Itoa(os.Getpid())+".pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if pair, err = tls.X509KeyPair(text, text); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return file, pair, pool
}
