package meta

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
	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/trust"
)

const (
	maxState       = 1 << 30 // bytes
	executeTimeout = applyTimeout + 5*time.Second
)

// metaHTTP speaks to meta nodes. The zero value works, without TLS or secret.
type metaHTTP struct {
	tls       *tlsconfig.TLSConfigManager
	signer    trust.Signer
	transport http.Transport
}

// use sets TLS and the shared secret; call it before the first request.
func (m *metaHTTP) use(tls *tlsconfig.TLSConfigManager, secret trust.Secret) {
	m.tls, m.signer.Secret = tls, secret
	if m.scheme() == "https" {
		m.transport.DialTLSContext = tls.DialContext
	}
}

func (m *metaHTTP) scheme() string {
	if m.tls != nil && m.tls.UseTLS() {
		return "https"
	}
	return "http"
}

func (m *metaHTTP) close() { m.transport.CloseIdleConnections() }

// state returns the encoded state as soon as it is newer than after, or nil
// when nothing changed for a while.
func (m *metaHTTP) state(ctx context.Context, server string, after uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pollWait+10*time.Second)
	defer cancel()
	b, code, err := m.do(ctx, http.MethodGet, server, "/state?index="+strconv.FormatUint(after, 10), "", nil, maxState)
	if err != nil || code == http.StatusNoContent {
		return nil, err
	}
	return b, nil
}

// ask sends params as a form, or in the URL of a GET, and returns the answer.
func (m *metaHTTP) ask(ctx context.Context, method, server, path string, params url.Values) ([]byte, error) {
	var body []byte
	if method == http.MethodGet {
		path += "?" + params.Encode()
	} else {
		body = []byte(params.Encode())
	}
	b, _, err := m.do(ctx, method, server, path, "application/x-www-form-urlencoded", body, maxCommand)
	var f *refusal
	if errors.As(err, &f) && f.code == http.StatusUnauthorized {
		return nil, fmt.Errorf("%w: [meta] internal-shared-secret must be the same on all nodes", err)
	}
	return b, err
}

// refusal is an error after which the request was surely not carried out.
type refusal struct {
	error
	answered bool // somebody answered: there may be a leader soon
	code     int  // HTTP status, 0 without an answer
}

func (r *refusal) Unwrap() error { return r.error }

// execute sends cmd to the meta nodes, and returns the index of the state that
// shows its effect. While they elect a leader it waits and tries again; after a
// failure on the way only commands that may be repeated are sent again.
func (m *metaHTTP) execute(servers []string, cmd cluster.Command) (index uint64, err error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), executeTimeout)
	defer cancel()
	for {
		again := false
		for _, server := range servers {
			var b []byte
			b, _, err = m.do(ctx, http.MethodPost, server, "/execute", "application/json", body, maxCommand)
			if err == nil {
				return executed(server, b)
			}
			var f *refusal
			if errors.As(err, &f) {
				again = again || f.answered && f.code != http.StatusUnauthorized
			} else if cmd.Repeatable() {
				again = true
			} else {
				return 0, err
			}
		}
		if !again {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(maxBackOff / 4):
		}
	}
}

func executed(server string, b []byte) (uint64, error) {
	var e execution
	if err := json.Unmarshal(b, &e); err != nil {
		return 0, fmt.Errorf("answer of meta node %s: %w", server, err)
	}
	if e.Error != "" {
		return 0, engineError(e.Error)
	}
	return e.Index, nil
}

// do sends one request, and follows to the leader with the credentials.
func (m *metaHTTP) do(ctx context.Context, method, server, path, kind string, body []byte, limit int64) (b []byte, code int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, m.scheme()+"://"+server+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	token, err := m.signer.Token()
	if err != nil {
		return nil, 0, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	redirected := false
	client := &http.Client{Transport: &m.transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("the meta nodes do not agree who leads")
		}
		redirected = true
		// Another host: the library leaves the credentials out.
		if a := via[0].Header.Get("Authorization"); a != "" {
			req.Header.Set("Authorization", a)
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		var op *net.OpError
		dialed := !errors.As(err, &op) || op.Op != "dial"
		err = fmt.Errorf("meta node %s is unreachable: %w", server, errors.Unwrap(err))
		if !dialed {
			err = &refusal{error: err, answered: redirected}
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(io.LimitReader(resp.Body, limit)); err != nil {
		return nil, 0, fmt.Errorf("answer of meta node %s: %w", server, err)
	}
	if resp.StatusCode < 300 {
		return b, resp.StatusCode, nil
	}
	var e errorBody
	if json.Unmarshal(b, &e) != nil || e.Error == "" {
		e.Error = strings.TrimSpace(resp.Status)
	}
	err = fmt.Errorf("meta node %s: %s", resp.Request.URL.Host, e.Error)
	if resp.StatusCode != http.StatusInternalServerError {
		err = &refusal{error: err, answered: resp.StatusCode >= 500, code: resp.StatusCode}
	}
	return nil, resp.StatusCode, err
}

// engineErrors are those that the engine compares by identity or that callers may.
var engineErrors = []error{
	emeta.ErrDatabaseExists, emeta.ErrDatabaseNotExists, emeta.ErrDatabaseNameRequired, emeta.ErrNameTooLong, emeta.ErrInvalidName,
	emeta.ErrRetentionPolicyExists, emeta.ErrRetentionPolicyNotFound, emeta.ErrRetentionPolicyDefault, emeta.ErrRetentionPolicyRequired,
	emeta.ErrRetentionPolicyNameRequired, emeta.ErrRetentionPolicyNameExists, emeta.ErrRetentionPolicyDurationTooLow,
	emeta.ErrRetentionPolicyConflict, emeta.ErrIncompatibleDurations, emeta.ErrReplicationFactorTooLow, emeta.ErrNegativeWriteLimit,
	emeta.ErrShardGroupExists, emeta.ErrShardGroupNotFound, emeta.ErrShardNotReplicated,
	emeta.ErrContinuousQueryExists, emeta.ErrContinuousQueryNotFound, emeta.ErrSubscriptionExists, emeta.ErrSubscriptionNotFound,
	emeta.ErrUserExists, emeta.ErrUserNotFound, emeta.ErrUsernameRequired, emeta.ErrAuthenticate,
	cluster.ErrNoDataNodes,
}

func engineError(text string) error {
	for _, err := range engineErrors {
		if err.Error() == text {
			return err
		}
	}
	return errors.New(text)
}
