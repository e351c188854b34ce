// Package httpclient sends one HTTP request to one meta node. Data nodes use it, and meta nodes among themselves.
package httpclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/meta/wire"
	"concord/internal/protocol"
	"concord/internal/trust"
)

const (
	dialTimeout  = 2 * time.Second // to connect to a meta node
	maxRedirects = 3               // from one meta node to the one that it takes for the leader
)

// Client has the credentials for meta nodes, and connections to them.
type Client struct {
	Speaks protocol.Speaks // which protocol between nodes the client speaks: that of this build, but in tests

	scheme    string
	signer    trust.Signer
	transport http.Transport
}

// New returns a client. tls is nil for plain HTTP, and secret is empty when the cluster has none.
func New(tls *tlsconfig.TLSConfigManager, secret trust.Secret) *Client {
	c := &Client{Speaks: protocol.Own, scheme: "http", signer: trust.Signer{Secret: secret}}
	c.transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	if tls != nil && tls.UseTLS() {
		c.scheme = "https"
		c.transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return tls.DialContext(ctx, network, addr)
		}
	}
	return c
}

// Scheme is http or https.
func (c *Client) Scheme() string { return c.scheme }

// Close closes the connections that no request uses.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Request is what Do sends.
type Request struct {
	Method string
	Server string // host:port
	Path   string // with the query
	Type   string // Content-Type of Body; empty for none
	Body   []byte
	Limit  int64 // bytes of the answer that are read
}

// Answer is what came back.
type Answer struct {
	Code int    // HTTP status, 0 when nobody answered
	Body []byte // empty unless the request succeeded

	From  string // the host:port that answered in the end
	Leads bool   // it leads the meta nodes
	Clock int64  // what time it has, nanoseconds since the epoch; 0 when it does not say
}

// Refusal is the error of a request that was certainly not carried out.
type Refusal struct {
	Err      error
	Answered bool // somebody answered: there may be a leader soon
	Code     int  // HTTP status, 0 without an answer
}

// Error is the text of the error inside.
func (r *Refusal) Error() string { return r.Err.Error() }

// TryNext reports whether another meta node may answer the request. repeatable is whether it can be sent again although
// a part of it was sent.
func (r *Refusal) TryNext(repeatable bool) bool {
	if r.Code == 0 && !r.Answered {
		return true
	}
	return repeatable && (r.Code == 0 || r.Code == http.StatusServiceUnavailable)
}

// Unwrap returns the error inside.
func (r *Refusal) Unwrap() error { return r.Err }

// Do sends one request, and follows to the leader where a node sends it there. An error that is not a Refusal leaves
// open whether the request was carried out. The answer says who answered with an error, too.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	req, err := c.build(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	resp, err := c.send(req, r.Server)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	return read(resp, r)
}

// Stream sends one request with a body that is read once, and returns the body of the answer, which the caller closes.
// It follows to the leader only when body is nil or a *bytes.Reader. Nothing of body is read when the error is a
// Refusal without a Code.
func (c *Client) Stream(ctx context.Context, method, server, path string, body io.Reader) (io.ReadCloser, error) {
	req, err := c.build(ctx, Request{Method: method, Server: server, Path: path})
	if err != nil {
		return nil, err
	}
	if body != nil {
		with, err := http.NewRequestWithContext(ctx, method, req.URL.String(), body)
		if err != nil {
			return nil, err
		}
		with.Header = req.Header
		req = with
	}
	resp, err := c.send(req, server)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	_, err = read(resp, Request{Server: server, Limit: wire.MaxBody})
	return nil, err
}

// Ask sends params as a form, or in the URL of a GET, and returns the body of the answer.
func (c *Client) Ask(ctx context.Context, method, server, path string, params url.Values) ([]byte, error) {
	answer, err := c.Do(ctx, Form(method, server, path, params))
	return answer.Body, ExplainRefusal(err)
}

// Form is a request with params as a form, or in the URL of a GET.
func Form(method, server, path string, params url.Values) Request {
	r := Request{
		Method: method, Server: server, Path: path, Type: "application/x-www-form-urlencoded", Limit: wire.MaxBody,
	}
	if method == http.MethodGet {
		r.Path += "?" + params.Encode()
	} else {
		r.Body = []byte(params.Encode())
	}
	return r
}

// ExplainRefusal adds what to do to the error of a node that does not accept the shared secret.
func ExplainRefusal(err error) error {
	var f *Refusal
	refused := errors.As(err, &f) && f.Code == http.StatusUnauthorized
	if refused && !strings.Contains(err.Error(), trust.ErrClocks.Error()) {
		return fmt.Errorf("%w: [meta] internal-shared-secret must be the same on all nodes", err)
	}
	return err
}

func (c *Client) build(ctx context.Context, r Request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, c.scheme+"://"+r.Server+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	req.Header.Set(protocol.Header, c.Speaks.Text())
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	token, err := c.signer.Token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// send follows redirects with the credentials, which the library leaves out for another host.
func (c *Client) send(req *http.Request, server string) (*http.Response, error) {
	redirected := false
	client := &http.Client{Transport: &c.transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("the meta nodes do not agree who leads")
		}
		redirected = true
		if a := via[0].Header.Get("Authorization"); a != "" {
			next.Header.Set("Authorization", a)
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err == nil {
		from := resp.Request.URL.Host
		if err := c.Speaks.With(from, protocol.Parse(resp.Header.Get(protocol.Header))); err != nil {
			resp.Body.Close()
			return nil, &Refusal{Err: err}
		}
		return resp, nil
	}
	var op *net.OpError
	connected := !errors.As(err, &op) || op.Op != "dial"
	err = fmt.Errorf("meta node %s is unreachable: %w", server, errors.Unwrap(err))
	if !connected {
		err = &Refusal{Err: err, Answered: redirected}
	}
	return nil, err
}

func read(resp *http.Response, r Request) (Answer, error) {
	a := Answer{Code: resp.StatusCode, From: resp.Request.URL.Host, Leads: resp.Header.Get(wire.LeaderHeader) != ""}
	if at, err := strconv.ParseInt(resp.Header.Get(wire.ClockHeader), 10, 64); err == nil {
		a.Clock = at
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, r.Limit))
	if err != nil {
		return a, fmt.Errorf("answer of meta node %s: %w", r.Server, err)
	}
	if a.Code < 300 {
		a.Body = b
		return a, nil
	}
	var e wire.Error
	if json.Unmarshal(b, &e) != nil || e.Error == "" {
		e.Error = strings.TrimSpace(resp.Status)
	}
	err = fmt.Errorf("meta node %s: %s", a.From, e.Error)
	if a.Code != http.StatusInternalServerError {
		err = &Refusal{Err: err, Answered: a.Code >= 500, Code: a.Code}
	}
	return a, err
}
