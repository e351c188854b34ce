package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/meta/httpclient"
)

const (
	maxState = 1 << 30 // bytes

	hedgeAfter   = time.Second     // a meta node may take so long to answer before the next one is asked, too
	quietWait    = 2 * time.Second // for how long a meta node waits for a change before it says that there is none
	roundTimeout = 4 * time.Second // to ask all meta nodes once
	quietGrace   = 3 * time.Second // after which a meta node that has not said so does not answer at all
	bodyTimeout  = 30 * time.Second
)

// metaNodes asks the meta nodes. What every meta node answers, or sends on to the leader, is asked of the one that led
// last, and then of the others in turn.
type metaNodes struct {
	http  *httpclient.Client
	cut   func() bool            // as Deps.Cut
	first atomic.Pointer[string] // the server to begin with; nil for the first of the list
	clock atomic.Pointer[leaderClock]
}

// leaderClock is what time it was for the leader of the meta nodes when it last answered.
type leaderClock struct {
	leader time.Time
	own    time.Time // with a monotonic reading
}

var errCut = errors.New("the links to the meta nodes are cut")

func (m *metaNodes) isCut() bool { return m.cut != nil && m.cut() }

// do sends one request.
func (m *metaNodes) do(ctx context.Context, r httpclient.Request) (httpclient.Answer, error) {
	if m.isCut() {
		return httpclient.Answer{}, errCut
	}
	a, err := m.http.Do(ctx, r)
	if m.isCut() { // meanwhile
		return httpclient.Answer{}, errCut
	}
	m.hear(a)
	return a, err
}

// ask sends params as a form, or in the URL of a GET, and returns the body of the answer.
func (m *metaNodes) ask(ctx context.Context, method, server, path string, params url.Values) ([]byte, error) {
	a, err := m.do(ctx, httpclient.Form(method, server, path, params))
	return a.Body, httpclient.ExplainRefusal(err)
}

// hear notes who leads, and what time it is for the leader, when an answer is the leader's.
func (m *metaNodes) hear(a httpclient.Answer) {
	if !a.Leads {
		return
	}
	m.prefer(a.From)
	if a.Clock != 0 {
		m.clock.Store(&leaderClock{leader: time.Unix(0, a.Clock), own: time.Now()})
	}
}

// now is the time of the leader of the meta nodes. known is false when none has answered yet: now is this node's then.
// It does not jump with this node's clock.
func (m *metaNodes) now() (now time.Time, known bool) {
	if c := m.clock.Load(); c != nil {
		return c.leader.Add(time.Since(c.own)), true
	}
	return time.Now(), false
}

// order lists the servers in the order in which they are asked.
func (m *metaNodes) order(servers []string) []string {
	first := m.first.Load()
	if first == nil {
		return servers
	}
	i := max(0, slices.Index(servers, *first))
	return slices.Concat(servers[i:], servers[:i])
}

// prefer makes server the one to begin with.
func (m *metaNodes) prefer(server string) { m.first.Store(&server) }

// pass makes the server after one that failed the one to begin with, if that was it.
func (m *metaNodes) pass(servers []string, failed string) {
	if order := m.order(servers); len(order) > 1 && order[0] == failed {
		m.prefer(order[1])
	}
}

// question asks one server.
type question[T any] func(ctx context.Context, server string) (T, error)

// anyOf asks the servers in turn until one answers: the next one when one fails, and also when one takes longer than
// hedgeAfter. So a meta node that hangs holds nobody up, but several may carry the request out.
func anyOf[T any](ctx context.Context, m *metaNodes, servers []string, ask question[T]) (none T, _ error) {
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

// isAnswer reports whether an error is the leader's answer: another server would give the same.
func isAnswer(err error) bool {
	var f *httpclient.Refusal
	return errors.As(err, &f) && (f.Code == http.StatusBadRequest || f.Code == http.StatusConflict)
}

// worse picks the one of two servers' errors that says more about what became of the request. In this order: it may
// have been carried out, somebody answered, nobody was there.
func worse(a, b error) error {
	rank := func(err error) int {
		var f *httpclient.Refusal
		switch {
		case err == nil:
			return 0
		case !errors.As(err, &f):
			return 3
		case f.Code != 0 || f.Answered:
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
func (m *metaNodes) state(ctx context.Context, server string, after uint64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(quietWait+quietGrace, cancel)
	defer silent.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { silent.Reset(bodyTimeout) },
	})
	params := url.Values{"index": {strconv.FormatUint(after, 10)}, "wait": {quietWait.String()}}
	a, err := m.do(ctx, httpclient.Request{
		Method: http.MethodGet, Server: server, Path: "/state?" + params.Encode(), Limit: maxState,
	})
	return newer(a), err
}

// latest returns the leader's encoded state, with all that was confirmed before the call, or nil when its index is not
// above after.
func (m *metaNodes) latest(ctx context.Context, servers []string, after uint64) ([]byte, error) {
	return anyOf(ctx, m, servers, func(ctx context.Context, server string) ([]byte, error) {
		a, err := m.do(ctx, httpclient.Request{
			Method: http.MethodGet, Server: server, Path: "/latest?index=" + strconv.FormatUint(after, 10),
			Limit: maxState,
		})
		return newer(a), err
	})
}

// newer is the body of an answer, nil when it says that there is nothing newer.
func newer(a httpclient.Answer) []byte {
	if a.Code == http.StatusNoContent {
		return nil
	}
	return a.Body
}
