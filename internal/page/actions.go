package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/rpc"
)

const (
	// maxAnswer bounds the answer of a query, in bytes: a browser that shows more is no use to anybody.
	maxAnswer = 8 << 20
	// loadsFor is for how long the load of the last hour is taken as it was found.
	loadsFor = 10 * time.Second
)

// shardRepair is the contract of anti-entropy for the user of the page. It looks itself at who may use which call.
func (p *Page) shardRepair(w http.ResponseWriter, r *http.Request, l *login) error {
	user := l.user()
	r = r.WithContext(context.WithValue(r.Context(), userKey{}, user))
	r.URL.Path = strings.TrimPrefix(r.URL.Path, Base)
	if r.Method != http.MethodPost {
		p.repair.ServeHTTP(w, r)
		return nil
	}
	out := &statusWriter{ResponseWriter: w}
	p.repair.ServeHTTP(out, r)
	if out.code < 300 {
		p.acted(l, strings.TrimPrefix(r.URL.Path, "/shard-repair/"), r.Form)
	}
	return nil
}

// acted logs what an operator did, and has all pages show it soon.
func (p *Page) acted(l *login, what string, params url.Values) {
	fields := []zap.Field{zap.String("action", what)}
	if l.name != "" {
		fields = append(fields, zap.String("user", l.name))
	}
	if n, err := strconv.ParseUint(params.Get("id"), 10, 64); err == nil {
		fields = append(fields, zap.Uint64("db_shard_id", n))
	}
	if v := params.Get("bytes"); v != "" {
		fields = append(fields, zap.String("bytes", v))
	}
	p.deps.Log.Info("An operator asked for an action on the page", fields...)
	p.hub.soon()
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	code int
}

// WriteHeader notes the status.
func (s *statusWriter) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// ShardDetail is what GET /cluster/shard answers: what each owner says of its copy.
type ShardDetail struct {
	ID       string     `json:"id"`
	Compared *time.Time `json:"compared,omitempty"` // when the contents were last found equal or not
	Owners   []Owner    `json:"owners"`
}

// Owner is the copy of one owner.
type Owner struct {
	Node     string     `json:"node"` // ID
	Address  string     `json:"address"`
	Up       bool       `json:"up"`
	Error    string     `json:"error,omitempty"`
	Exists   bool       `json:"exists"`
	Size     int64      `json:"size"`
	Written  *time.Time `json:"written,omitempty"`  // the last write, delete or change of files
	Digested *time.Time `json:"digested,omitempty"` // when the digest of the copy was up to date last
	Lacks    string     `json:"lacks,omitempty"`    // why the copy is not whole
	Corrupt  string     `json:"corrupt,omitempty"`
	HintsFor []string   `json:"hints_for,omitempty"` // nodes for which it keeps writes of the shard
}

// shard asks all owners of a shard about their copies.
func (p *Page) shard(w http.ResponseWriter, r *http.Request, l *login) error {
	shardID, err := strconv.ParseUint(r.FormValue("id"), 10, 64)
	if err != nil {
		return badRequest("parameter id must be the ID of a shard")
	}
	state, user := p.deps.State(), l.user()
	sh, ok := state.Shard(shardID)
	if !ok || !state.MaySee(user, sh.Database) {
		return statusError{http.StatusNotFound, fmt.Errorf("there is no shard %d that you may see", shardID)}
	}
	type both struct {
		state  entropy.ShardState
		report *rpc.ShardReport // nil for none
	}
	var owners []cluster.Node
	for _, o := range sh.Owners {
		n, _ := state.DataNode(o)
		n.ID = o
		owners = append(owners, n)
	}
	ask := func(ctx context.Context, n cluster.Node) (out both, err error) {
		states, err := p.deps.View.Transport.Replica(n).States(ctx, []uint64{shardID})
		if err != nil {
			return out, err
		}
		out.state = states[shardID]
		if report, err := p.deps.ask(ctx, n, &rpc.ReportRequest{ShardId: shardID}); err == nil {
			out.report = report.Shard
		}
		return out, nil
	}
	answers := rpc.AskAll(r.Context(), owners, askTimeout, ask)
	out := ShardDetail{ID: id(shardID)}
	compared := int64(0)
	for _, a := range answers {
		o := Owner{Node: id(a.Node.ID), Address: a.Node.TCPAddr, Up: a.Err == nil}
		if a.Err != nil {
			o.Error = a.Err.Error()
		} else {
			st := a.Value.state
			o.Exists, o.Size, o.Lacks, o.Corrupt = st.Exists, st.Size, st.Lack.Why, st.Corrupt
			o.Written, o.Digested = stamp(st.LastModified), stamp(a.Value.report.GetDigested())
			for _, n := range st.Hints {
				o.HintsFor = append(o.HintsFor, id(n))
			}
			compared = max(compared, a.Value.report.GetCompared())
		}
		if !isAdmin(user) {
			o.Error, o.Corrupt = "", "" // they may name files and series
		}
		out.Owners = append(out.Owners, o)
	}
	out.Compared = stamp(compared)
	answer(w, http.StatusOK, out)
	return nil
}

// loads remembers the load of all nodes for a moment, so that many pages cost as much as one.
type loads struct {
	mu    sync.Mutex
	found time.Time
	last  map[string][]Load
}

// load is the load of all data nodes in the last hour, by ID.
func (p *Page) load(w http.ResponseWriter, r *http.Request, _ *login) error {
	p.loads.mu.Lock()
	defer p.loads.mu.Unlock()
	if time.Since(p.loads.found) > loadsFor {
		answers := rpc.AskAll(r.Context(), p.deps.State().DataNodes, askTimeout,
			func(ctx context.Context, n cluster.Node) (*rpc.ReportResponse, error) {
				return p.deps.ask(ctx, n, &rpc.ReportRequest{Load: true})
			})
		out := make(map[string][]Load)
		for _, a := range answers {
			for _, part := range a.Value.GetLoad() {
				out[id(a.Node.ID)] = append(out[id(a.Node.ID)], loadOf(part))
			}
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
		p.loads.last, p.loads.found = out, time.Now()
	}
	answer(w, http.StatusOK, p.loads.last)
	return nil
}

func loadOf(l *rpc.Load) Load {
	per := func(n int64) float64 { return rounded(float64(n) / float64(max(l.Seconds, 1))) }
	return Load{
		Start: time.Unix(0, l.Start).UTC(), Seconds: l.Seconds, Writes: per(l.Writes), Points: per(l.Points),
		Queries: per(l.Queries), WriteP99: rounded(time.Duration(l.WriteP99).Seconds()),
		QueryP99: rounded(time.Duration(l.QueryP99).Seconds()),
	}
}

// killQuery ends a query on the node where a client asked it.
func (p *Page) killQuery(w http.ResponseWriter, r *http.Request, l *login) error {
	var given struct{ Node, ID string }
	if err := read(r, &given); err != nil {
		return err
	}
	node, err := strconv.ParseUint(given.Node, 10, 64)
	queryID, err2 := strconv.ParseUint(given.ID, 10, 64)
	n, ok := p.deps.State().DataNode(node)
	if err != nil || err2 != nil || !ok {
		return badRequest("give node, the ID of a data node, and id, that of a query on it")
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	conn, err := p.deps.Pool.Conn(n.TCPAddr)
	if err == nil {
		_, err = rpc.NewOverviewClient(conn).KillQuery(ctx, &rpc.KillQueryRequest{Id: queryID})
	}
	if status.Code(err) == codes.NotFound {
		return statusError{http.StatusNotFound, errors.New(rpc.Message(err))}
	} else if err != nil {
		return fmt.Errorf("data node %s: %s", n.TCPAddr, rpc.Message(err))
	}
	p.acted(l, fmt.Sprintf("kill query %d on data node %s", queryID, n.TCPAddr), nil)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// query asks the node's own /query as the user of the page.
func (p *Page) query(w http.ResponseWriter, r *http.Request, l *login) error {
	if p.deps.Query == nil {
		return statusError{http.StatusNotFound,
			errors.New("meta nodes answer no queries: open the page at a data node")}
	}
	var given struct {
		Q      string          `json:"q"`
		DB     string          `json:"db"`
		Params json.RawMessage `json:"params"`
	}
	if err := read(r, &given); err != nil {
		return err
	}
	form := url.Values{"q": {given.Q}, "db": {given.DB}, "epoch": {"ms"}}
	if given.Params != nil {
		form.Set("params", string(given.Params))
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	inner, err := http.NewRequestWithContext(ctx, http.MethodPost, "/query", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	inner.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	inner.RemoteAddr, inner.Host = r.RemoteAddr, r.Host
	if l.token != "" {
		inner.SetBasicAuth(l.name, l.token)
	} else if v := r.Header.Get("Authorization"); v != "" {
		inner.Header.Set("Authorization", v)
	}
	out := &bounded{header: make(http.Header), code: http.StatusOK, full: cancel}
	p.deps.Query.ServeHTTP(out, inner)
	if out.over {
		return statusError{http.StatusRequestEntityTooLarge, errors.New(
			"the answer is larger than 8 MiB: ask for less, with LIMIT, GROUP BY time(…) or a shorter range of time")}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(out.code)
	w.Write(out.body.Bytes())
	return nil
}

// bounded keeps an answer that is not too large.
type bounded struct {
	header http.Header
	code   int
	body   bytes.Buffer
	over   bool
	full   func() // called when the answer is too large
}

// Header is not passed on.
func (b *bounded) Header() http.Header { return b.header }

// Flush has nothing to do: the answer is passed on as a whole.
func (b *bounded) Flush() {}

// CloseNotify is what the engine asks of an answer. The context of the request ends when the client is gone.
func (b *bounded) CloseNotify() <-chan bool { return nil }

// WriteHeader notes the status.
func (b *bounded) WriteHeader(code int) { b.code = code }

// Write keeps a part of the answer.
func (b *bounded) Write(part []byte) (int, error) {
	if b.body.Len()+len(part) > maxAnswer {
		b.over = true
		b.full()
		return 0, errors.New("the answer is too large")
	}
	return b.body.Write(part)
}
