package ctl

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"concord/internal/cli"
	"concord/internal/entropy/api"
	"concord/internal/meta/metaconfig"
	"concord/internal/trust"
)

// errNoMetaNode is that nobody listens at -bind.
var errNoMetaNode = errors.New("no meta node answers")

// client asks one meta node, and follows it to the leader. Each command is a method that returns it.
type client struct {
	bind, user, pwd, authType string
	config                    string
	secret                    trust.Secret
	tls, insecure             bool
	timeout                   time.Duration
	global                    *pflag.FlagSet
	configured                bool          // configure was called: the address may be another one since
	overTLS                   *tlsTransport // copies with another timeout share it
}

// tlsTransport is the HTTP transport to meta nodes that speak TLS. It is made with the first request, when flags and
// -config have said how to verify certificates. One is enough for a command: it keeps connections open for reuse.
type tlsTransport struct {
	once sync.Once
	http *http.Transport
}

func (t *tlsTransport) get(insecure bool) http.RoundTripper {
	t.once.Do(func() {
		t.http = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: insecure}}
	})
	return t.http
}

// flags are the global flags of influxd-ctl.
func (c *client) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.bind, "bind", "localhost:8091", "HTTP address of a meta node")
	f.BoolVar(&c.tls, "bind-tls", false, "use TLS to the meta node")
	f.BoolVarP(&c.insecure, "k", "k", false, "with -bind-tls: do not verify the certificate")
	f.StringVar(&c.authType, "auth-type", "none", "none; basic, with -user and -pwd; or jwt, with -secret or -config")
	f.StringVar(&c.user, "user", "", "user name of -auth-type basic, or in the tokens of -auth-type jwt")
	f.StringVar(&c.pwd, "pwd", "", "password of -auth-type basic")
	f.StringVar((*string)(&c.secret), "secret", "", "shared secret of -auth-type jwt")
	f.StringVar(&c.config, "config", "", "influxdb-meta.conf, which has address, TLS and shared secret of the meta node")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	c.global = f
}

// slow is a client for what takes longer than an answer from memory.
func (c *client) slow() *client {
	s := *c
	if !c.global.Changed("timeout") {
		s.timeout = time.Minute
	}
	return &s
}

// configure takes from -config what no flag says, and checks the credentials. Only the first call does something.
func (c *client) configure() error {
	if c.configured {
		return nil
	}
	if c.config != "" {
		cfg, err := metaconfig.Program.Load(c.config, os.Getenv)
		if err != nil {
			return err
		}
		if !c.global.Changed("bind") {
			_, port, _ := net.SplitHostPort(cfg.Meta.HTTPBindAddress)
			c.bind = net.JoinHostPort(cmp.Or(cfg.Hostname, "localhost"), port)
		}
		if !c.global.Changed("bind-tls") {
			c.tls, c.insecure = cfg.Meta.HTTPSEnabled, c.insecure || cfg.Meta.HTTPSInsecureTLS
		}
		if c.secret == "" {
			c.secret = cfg.Meta.InternalSharedSecret
		}
		if !c.global.Changed("auth-type") && cfg.Meta.AuthEnabled {
			c.authType = "jwt"
		}
	}
	switch c.authType {
	case "none":
	case "basic":
		if c.user == "" {
			return errors.New("-auth-type basic needs -user and -pwd")
		}
	case "jwt":
		if c.secret == "" {
			return errors.New("-auth-type jwt needs -secret, or -config")
		}
	default:
		return fmt.Errorf("-auth-type %s is not supported: use none, basic or jwt", c.authType)
	}
	c.configured = true
	return nil
}

// call sends a request and decodes a JSON answer into out unless that is nil.
// An error is one line that says what to do.
func (c *client) call(ctx context.Context, method, path string, params url.Values, out any) error {
	return c.callWith(ctx, method, path, params, nil, out)
}

// callWith is call with a body.
func (c *client) callWith(
	ctx context.Context, method, path string, params url.Values, body io.Reader, out any,
) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, params, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("answer of meta node %s: %w", c.bind, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer of %s is not that of a meta node of Concord (see -bind): %w", c.bind, err)
	}
	return nil
}

// send sends a request with a body, which may be nil, and returns the answer, whose body
// the caller closes, or the error that it says.
func (c *client) send(
	ctx context.Context, method, path string, params url.Values, body io.Reader,
) (*http.Response, error) {
	if err := c.configure(); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "http", Host: c.bind, Path: path, RawQuery: params.Encode()}
	transport := http.DefaultTransport
	if c.tls {
		u.Scheme = "https"
		transport = c.overTLS.get(c.insecure)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("-bind %s: %w", c.bind, err)
	}
	switch c.authType {
	case "basic":
		req.SetBasicAuth(c.user, c.pwd)
	case "jwt":
		token, err := c.secret.UserToken(c.user, c.timeout+time.Minute)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	leader := ""
	hc := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("the meta nodes do not agree who leads: try again")
		}
		leader = next.URL.Host
		// Another host: the library leaves the credentials out.
		if a := via[0].Header.Get("Authorization"); a != "" {
			next.Header.Set("Authorization", a)
		}
		return nil
	}}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, c.explain(err, leader)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var e api.Failure
	json.Unmarshal(b, &e) // an answer of something else says nothing
	if resp.StatusCode == http.StatusUnauthorized {
		return nil, c.refused(e.Error)
	}
	if e.Error != "" {
		return nil, errors.New(e.Error)
	}
	if !c.tls && strings.Contains(string(b), "HTTP request to an HTTPS server") {
		return nil, fmt.Errorf("%s speaks TLS: give -bind-tls", c.bind)
	}
	return nil, fmt.Errorf("meta node %s: %s %s", c.bind, resp.Status, strings.TrimSpace(string(b)))
}

// refused is the error of a request whose credentials are missing or wrong, with the texts of InfluxDB Enterprise. why
// is what the meta node says.
func (c *client) refused(why string) error {
	switch c.authType {
	case "none":
		return cli.Verbatim("Error: unable to parse authentication credentials. " +
			"Give -auth-type basic with -user and -pwd, or -auth-type jwt with -secret")
	case "jwt":
		return cli.Verbatim(fmt.Sprintf("Error: authorization failed. %s: %s", c.bind, why)) // the clocks may be wrong
	}
	return cli.Verbatim("Error: authorization failed.")
}

// explain says what to do about a request that got no answer.
func (c *client) explain(err error, leader string) error {
	var dial *net.OpError
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial" && leader != "":
		return fmt.Errorf("the leader of the meta nodes, %s, does not answer: try again in a moment", leader)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w at %s: start influxd-meta there, or name another with -bind", errNoMetaNode, c.bind)
	case errors.As(err, &unverified):
		return fmt.Errorf("the certificate of %s is not trusted (%w): set SSL_CERT_FILE to the PEM file of your CA, "+
			"or give -k to not verify it",
			c.bind, unverified.Err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS: leave out -bind-tls", c.bind)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("meta node %s gave no answer within %s: see -timeout", c.bind, c.timeout)
	}
	return fmt.Errorf("ask meta node %s: %w", c.bind, err)
}
