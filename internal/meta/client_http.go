package meta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/trust"
)

const (
	maxState       = 1 << 30 // bytes
	executeTimeout = applyTimeout + 5*time.Second

	hedgeAfter   = time.Second     // a meta node may take so long to answer before the next one is asked, too
	dialTimeout  = 2 * time.Second // to connect to a meta node
	quietWait    = 2 * time.Second // for how long a meta node waits for a change before it says that there is none
	roundTimeout = 4 * time.Second // to ask all meta nodes once
	quietGrace   = 3 * time.Second // after which a meta node that has not said so does not answer at all
	bodyTimeout  = 30 * time.Second
)

// metaHTTP speaks to meta nodes. The zero value works, without TLS or secret. What every meta node answers, or sends
// on to the leader, is asked of the one that led last, and then of the others in turn.
type metaHTTP struct {
	tls       *tlsconfig.TLSConfigManager
	signer    trust.Signer
	transport http.Transport
	dialer    sync.Once              // sets how transport dials
	first     atomic.Pointer[string] // the server to begin with
	clock     atomic.Pointer[leaderClock]
}

// leaderClock is what time it was for the leader of the meta nodes when it last answered.
type leaderClock struct {
	leader time.Time
	own    time.Time // with a monotonic reading
}

// hear notes who leads, and what time it is for the leader, when an answer is the leader's.
func (m *metaHTTP) hear(resp *http.Response) {
	if resp.Header.Get(leaderHeader) == "" {
		return
	}
	m.prefer(resp.Request.URL.Host)
	if at, err := strconv.ParseInt(resp.Header.Get(clockHeader), 10, 64); err == nil {
		m.clock.Store(&leaderClock{leader: time.Unix(0, at), own: time.Now()})
	}
}

// now is the time of the leader of the meta nodes. known is false when none has answered yet: now is this node's then.
// It does not jump with this node's clock.
func (m *metaHTTP) now() (now time.Time, known bool) {
	if c := m.clock.Load(); c != nil {
		return c.leader.Add(time.Since(c.own)), true
	}
	return time.Now(), false
}

// use sets TLS and the shared secret; call it before the first request.
func (m *metaHTTP) use(tls *tlsconfig.TLSConfigManager, secret trust.Secret) {
	m.tls, m.signer.Secret = tls, secret
	if m.scheme() == "https" {
		m.transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return tls.DialContext(ctx, network, addr)
		}
	}
}

func (m *metaHTTP) scheme() string {
	if m.tls != nil && m.tls.UseTLS() {
		return "https"
	}
	return "http"
}

func (m *metaHTTP) close() { m.transport.CloseIdleConnections() }

// order lists the servers in the order in which they are asked.
func (m *metaHTTP) order(servers []string) []string {
	first := m.first.Load()
	if first == nil {
		return servers
	}
	i := max(0, slices.Index(servers, *first))
	return slices.Concat(servers[i:], servers[:i])
}

// prefer makes server the one to begin with.
func (m *metaHTTP) prefer(server string) { m.first.Store(&server) }

// pass makes the server after one that failed the one to begin with, if that was it.
func (m *metaHTTP) pass(servers []string, failed string) {
	if order := m.order(servers); len(order) > 1 && order[0] == failed {
		m.prefer(order[1])
	}
}

// question asks one server.
type question[T any] func(ctx context.Context, server string) (T, error)

// anyOf asks the servers in turn until one answers, the next one when one fails, and also when one takes longer than
// hedgeAfter: a meta node that hangs holds nobody up. The request may so be carried out by several of them.
func anyOf[T any](ctx context.Context, m *metaHTTP, servers []string, ask question[T]) (none T, _ error) {
	type answer struct {
		v   T
		err error
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order, answers := m.order(servers), make(chan answer, len(servers))
	hedge := time.NewTimer(hedgeAfter)
	defer hedge.Stop()
	asked := 0
	next := func() {
		if asked == len(order) {
			return
		}
		server := order[asked]
		asked++
		hedge.Reset(hedgeAfter)
		wg.Go(func() {
			v, err := ask(ctx, server)
			answers <- answer{v, err}
		})
	}
	next()
	var failed error
	for ended := 0; ended < asked; {
		select {
		case a := <-answers:
			if a.err == nil || isAnswer(a.err) {
				return a.v, a.err
			}
			ended++
			failed = worse(failed, a.err)
			next()
		case <-hedge.C:
			next()
		}
	}
	return none, failed
}

// isAnswer reports whether an error is the leader's answer to the request, which no other server changes.
func isAnswer(err error) bool {
	var f *refusal
	return errors.As(err, &f) && (f.code == http.StatusBadRequest || f.code == http.StatusConflict)
}

// worse picks, of the errors of two servers, the one that says more of what became of the request: it may have been
// carried out, somebody answered, nobody was there.
func worse(a, b error) error {
	rank := func(err error) int {
		var f *refusal
		switch {
		case err == nil:
			return 0
		case !errors.As(err, &f):
			return 3
		case f.code != 0 || f.answered:
			return 2
		}
		return 1
	}
	if rank(a) >= rank(b) {
		return a
	}
	return b
}

// state returns the encoded state as soon as it is newer than after, or nil when a server that follows the leader has
// nothing newer for a while.
func (m *metaHTTP) state(ctx context.Context, server string, after uint64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(quietWait+quietGrace, cancel)
	defer silent.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { silent.Reset(bodyTimeout) },
	})
	params := url.Values{"index": {strconv.FormatUint(after, 10)}, "wait": {quietWait.String()}}
	b, code, err := m.do(ctx, http.MethodGet, server, "/state?"+params.Encode(), "", nil, maxState)
	if err != nil || code == http.StatusNoContent {
		return nil, err
	}
	return b, nil
}

// latest returns the leader's encoded state, with all that was confirmed before the call, or nil when its index is not
// above after.
func (m *metaHTTP) latest(ctx context.Context, servers []string, after uint64) ([]byte, error) {
	return anyOf(ctx, m, servers, func(ctx context.Context, server string) ([]byte, error) {
		b, code, err := m.do(ctx, http.MethodGet, server, "/latest?index="+strconv.FormatUint(after, 10), "", nil, maxState)
		if code == http.StatusNoContent {
			return nil, err
		}
		return b, err
	})
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
	refused := errors.As(err, &f) && f.code == http.StatusUnauthorized
	if refused && !strings.Contains(err.Error(), trust.ErrClocks.Error()) {
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

// execute sends cmd to the leader, and returns the index of the state that shows its effect, also with an error of the
// command itself. While the meta nodes elect a leader it waits and tries again; after a failure on the way only
// commands that may be repeated are sent again.
func (m *metaHTTP) execute(servers []string, cmd cluster.Command) (index uint64, err error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), executeTimeout)
	defer cancel()
	post := func(ctx context.Context, server string) ([]byte, error) {
		b, _, err := m.do(ctx, http.MethodPost, server, "/execute", "application/json", body, maxCommand)
		return b, err
	}
	for {
		var b []byte
		if cmd.Repeatable() {
			round, cancel := context.WithTimeout(ctx, roundTimeout)
			b, err = anyOf(round, m, servers, post)
			cancel()
		} else {
			b, err = m.postOnce(ctx, servers, post)
		}
		if err == nil {
			return executed(b)
		}
		var f *refusal
		if !errors.As(err, &f) && !cmd.Repeatable() {
			return 0, err // it may have been carried out
		} else if f != nil && (!f.answered || f.code == http.StatusUnauthorized) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(maxBackOff / 4):
		}
	}
}

// postOnce finds the leader, and sends a request that must not be carried out twice to it alone.
func (m *metaHTTP) postOnce(ctx context.Context, servers []string, post question[[]byte]) ([]byte, error) {
	round, cancel := context.WithTimeout(ctx, roundTimeout)
	_, err := m.latest(round, servers, math.MaxUint64) // the leader is the one to begin with from then on
	cancel()
	var f *refusal
	if errors.As(err, &f) && f.code == http.StatusNotFound {
		err = nil // meta nodes of an older version send the request on
	}
	if err != nil && f == nil {
		err = &refusal{error: err, answered: true} // one of them hangs, and nothing was sent yet
	}
	if err != nil {
		return nil, err
	}
	server := m.order(servers)[0]
	b, err := post(ctx, server)
	if errors.As(err, &f) && f.code == 0 {
		f.answered = true // it is gone since it said that it leads: the others elect another leader soon
		m.pass(servers, server)
	}
	return b, err
}

func executed(b []byte) (uint64, error) {
	var e execution
	if err := json.Unmarshal(b, &e); err != nil {
		return 0, fmt.Errorf("answer of the meta nodes: %w", err)
	}
	if e.Error != "" {
		return e.Index, engineError(e.Error)
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
	m.dialer.Do(func() { m.transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext })
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
	m.hear(resp)
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
