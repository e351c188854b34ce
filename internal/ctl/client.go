// Package ctl is influxd-ctl: the commands of an operator, over a meta node's
// HTTP API.
package ctl

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// client asks one meta node.
type client struct {
	bind, user, pwd, authType string
	tls, insecure             bool
	timeout                   time.Duration
}

// flags are the global flags of influxd-ctl.
func (c *client) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.bind, "bind", "localhost:8091", "HTTP address of a meta node")
	f.BoolVar(&c.tls, "bind-tls", false, "use TLS to the meta node")
	f.BoolVarP(&c.insecure, "k", "k", false, "with -bind-tls: do not verify the certificate")
	f.StringVar(&c.authType, "auth-type", "none", "none or basic")
	f.StringVar(&c.user, "user", "", "user name of -auth-type basic")
	f.StringVar(&c.pwd, "pwd", "", "password of -auth-type basic")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
}

// call sends a request and decodes a JSON answer into out unless that is nil.
// An error is one line that says what to do.
func (c *client) call(ctx context.Context, method, path string, params url.Values, out any) error {
	if c.authType != "none" && c.authType != "basic" {
		return fmt.Errorf("-auth-type %s is not supported: use none or basic", c.authType)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := url.URL{Scheme: "http", Host: c.bind, Path: path, RawQuery: params.Encode()}
	transport := http.DefaultTransport
	if c.tls {
		u.Scheme = "https"
		transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: c.insecure}}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return fmt.Errorf("-bind %s: %w", c.bind, err)
	}
	if c.authType == "basic" {
		req.SetBasicAuth(c.user, c.pwd)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			return fmt.Errorf("no meta node answers at %s: start influxd-meta there, or name another with -bind", c.bind)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("meta node %s gave no answer within %s: see -timeout", c.bind, c.timeout)
		}
		return fmt.Errorf("ask meta node %s: %w", c.bind, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("answer of meta node %s: %w", c.bind, err)
	}
	if resp.StatusCode >= 300 {
		var e struct{ Error string }
		if json.Unmarshal(b, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return fmt.Errorf("meta node %s: %s %s", c.bind, resp.Status, strings.TrimSpace(string(b)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s is no meta node of this kind: %w", c.bind, err)
	}
	return nil
}
