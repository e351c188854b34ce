package meta

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

const (
	pollWait   = 20 * time.Second // how long GET /state waits for a change
	maxCommand = 1 << 20          // bytes of a POST /execute
)

// handler has every route with who may use it; toLeader marks what only the leader can answer.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, need access, fn http.HandlerFunc) { mux.Handle(pattern, s.guard(need, fn)) }
	onLeader := func(pattern string, need access, fn func(*http.Request) (any, error)) {
		mux.Handle(pattern, s.guard(need, s.toLeader(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := s.st().caughtUp(); err != nil {
				reply(w, nil, err)
				return
			}
			v, err := fn(r)
			reply(w, v, err)
		}))))
	}
	handle("GET /ping", open, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	handle("GET /status", read, s.serveStatus)
	handle("GET /show-cluster", admin, s.serveCluster)
	handle("GET /show-shards", admin, s.serveShards)
	handle("GET /identity", internal, func(w http.ResponseWriter, _ *http.Request) { reply(w, s.identity(), nil) })
	handle("GET /state", internal, s.serveState)
	handle("GET /who-is", internal, s.serveWhoIs)
	handle("POST /reset", internal, s.serveReset)
	mux.Handle("POST /execute", s.guard(internal, s.toLeader(http.HandlerFunc(s.serveExecute))))
	mux.Handle("GET /latest", s.guard(internal, s.toLeader(http.HandlerFunc(s.serveLatest))))
	mux.Handle("GET /lease", s.guard(internal, s.toLeader(http.HandlerFunc(s.serveLease))))

	onLeader("POST /add-meta", admin, func(r *http.Request) (any, error) {
		addr := r.FormValue("addr")
		if addr == "" {
			addr = s.httpAddr
		}
		return answerNode(s.AddMeta(r.Context(), addr))
	})
	onLeader("POST /add-data", admin, func(r *http.Request) (any, error) { return answerNode(s.AddData(r.Context(), r.FormValue("addr"))) })
	s.removalRoutes(mux, onLeader)
	onLeader("POST /update-data", admin, func(r *http.Request) (any, error) {
		return answerNode(s.UpdateData(r.Context(), r.FormValue("old"), r.FormValue("new")))
	})
	onLeader("POST /truncate-shards", admin, func(r *http.Request) (any, error) {
		delay, err := time.ParseDuration(r.FormValue("delay"))
		if err != nil {
			return nil, errors.New("delay: must be a duration such as 1m")
		}
		return struct{}{}, s.truncate(delay)
	})
	onLeader("POST /node-labels", admin, func(r *http.Request) (any, error) {
		set := map[string]string{}
		if v := r.FormValue("set"); v != "" {
			if err := json.Unmarshal([]byte(v), &set); err != nil {
				return nil, errors.New("set: must be a JSON object of strings")
			}
		}
		var remove []string
		if v := r.FormValue("delete"); v != "" {
			if err := json.Unmarshal([]byte(v), &remove); err != nil {
				return nil, errors.New("delete: must be a JSON list of strings")
			}
		}
		return answerNode(s.labelNode(r.FormValue("node"), set, remove))
	})
	s.userRoutes(mux)
	for _, r := range s.routes {
		h := r.handler
		if r.leads {
			h = s.toLeader(h)
		}
		mux.Handle(r.pattern, s.guard(admin, h))
	}
	if s.ShardRepair != nil {
		mux.Handle("GET /shard-repair/", s.guard(read, s.ShardRepair))
		mux.Handle("/shard-repair/", s.guard(admin, s.ShardRepair))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The files of a restore are the one large thing that is sent here.
		if !strings.HasPrefix(r.URL.Path, "/restore/") {
			r.Body = http.MaxBytesReader(w, r.Body, maxCommand)
		}
		mux.ServeHTTP(&timed{ResponseWriter: w, server: s}, r)
	})
}

const (
	clockHeader  = "Concord-Clock"  // the node's time as it answers, nanoseconds since the epoch
	leaderHeader = "Concord-Leader" // true when the node leads the meta nodes
)

// timed is an answer that says what time it is.
type timed struct {
	http.ResponseWriter
	server *Server
	begun  bool
}

func (t *timed) WriteHeader(code int) {
	if !t.begun {
		t.begun = true
		t.Header().Set(clockHeader, strconv.FormatInt(t.server.now().UnixNano(), 10))
		if t.server.Leads() {
			t.Header().Set(leaderHeader, "true")
		}
	}
	t.ResponseWriter.WriteHeader(code)
}

func (t *timed) Write(b []byte) (int, error) {
	if !t.begun {
		t.WriteHeader(http.StatusOK)
	}
	return t.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (t *timed) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// answerNode is the answer to a request that changes a node.
func answerNode(n cluster.Node, err error) (any, error) { return wire.Node(n), err }

func boolValue(r *http.Request, key string) (bool, error) {
	v := r.FormValue(key)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, errors.New(key + ": must be true or false")
	}
	return b, nil
}

type errorBody struct {
	Error string `json:"error"`
}

// reply answers with v, or with the one-line error: 503 where another attempt
// may do, else 400.
func reply(w http.ResponseWriter, v any, err error) {
	code := http.StatusOK
	if err != nil {
		v, code = errorBody{err.Error()}, http.StatusBadRequest
		if errors.Is(err, errNoLeader) || errors.Is(err, ErrNotInitialised) {
			code = http.StatusServiceUnavailable
		} else if errors.Is(err, errUncertain) {
			code = http.StatusInternalServerError
		}
	}
	replyCode(w, code, v)
}

func replyCode(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request) {
	leader, _ := s.st().raft.LeaderWithID()
	st := wire.Status{NodeType: "meta", Leader: string(leader), HTTPAddr: s.httpAddr, RaftAddr: s.raftAddr, Peers: []string{}}
	if f := s.st().raft.GetConfiguration(); f.Error() == nil {
		for _, p := range f.Configuration().Servers {
			if p.ID == s.st().id {
				p.Address = raft.ServerAddress(s.raftAddr)
			}
			st.Peers = append(st.Peers, string(p.Address))
		}
	}
	reply(w, st, nil)
}

func (s *Server) serveShards(w http.ResponseWriter, _ *http.Request) {
	st := s.State()
	out := []wire.Shard{}
	for _, sh := range st.Shards() {
		i := wire.Shard{
			ID: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, ReplicaN: sh.ReplicaN, GroupID: sh.GroupID,
			Start: time.Unix(0, sh.Start).UTC(), End: time.Unix(0, sh.End).UTC(), Owners: []wire.Owner{},
		}
		if sh.Expires != 0 {
			t := time.Unix(0, sh.Expires).UTC()
			i.Expires = &t
		}
		if sh.Truncated {
			i.TruncatedAt = &i.End
		}
		for _, id := range sh.Owners {
			n, _ := st.DataNode(id)
			i.Owners = append(i.Owners, wire.Owner{ID: id, TCPAddr: n.TCPAddr})
		}
		out = append(out, i)
	}
	reply(w, out, nil)
}

// serveState answers with the state as soon as it is newer than the asked index. When that takes longer than the asked
// time it answers with 204, if this node follows a leader and so would know.
func (s *Server) serveState(w http.ResponseWriter, r *http.Request) {
	after, err := indexValue(r)
	if err != nil {
		reply(w, nil, err)
		return
	}
	wait := pollWait
	if v := r.FormValue("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil {
			reply(w, nil, errors.New("wait: must be a duration"))
			return
		}
	}
	timeout := time.NewTimer(min(wait, pollWait))
	defer timeout.Stop()
	for {
		st, changed := s.st().current()
		if st.Data.ClusterID == 0 {
			reply(w, nil, ErrNotInitialised)
			return
		}
		if st.Index > after {
			s.replyState(w, st)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			if _, err := s.leaderHTTP(); err != nil {
				reply(w, nil, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
			return
		case <-s.stop:
			reply(w, nil, errNoLeader)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// serveLatest answers with the state that has all that was confirmed before the request, or with 204 when its index is
// not above the asked one. Only the leader can: it makes sure that it still leads.
func (s *Server) serveLatest(w http.ResponseWriter, r *http.Request) {
	after, err := indexValue(r)
	if err == nil {
		err = s.st().confirmLead()
	}
	st := s.State()
	switch {
	case err != nil:
		reply(w, nil, err)
	case st.Index > after:
		s.replyState(w, st)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func indexValue(r *http.Request) (uint64, error) {
	v := r.FormValue("index")
	if v == "" {
		return 0, nil
	}
	index, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, errors.New("index: must be a number")
	}
	return index, nil
}

// encodedState is a state with its bytes.
type encodedState struct {
	of *cluster.State
	b  []byte
}

// replyState answers with st. All data nodes ask for the same one at the same time: it is encoded once.
func (s *Server) replyState(w http.ResponseWriter, st *cluster.State) {
	e := s.encoded.Load()
	if e == nil || e.of != st {
		b, err := st.MarshalBinary()
		if err != nil {
			reply(w, nil, err)
			return
		}
		e = &encodedState{st, b}
		s.encoded.Store(e)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(e.b)
}

// execution is the answer of POST /execute. Error is the command's own error;
// Index is the state in which the effect can be seen.
type execution struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
	Index  uint64 `json:"index"`
}

func (s *Server) serveExecute(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var c cluster.Command
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		reply(w, nil, errors.New("command: "+err.Error()))
		return
	}
	result, index, err := s.apply(c)
	if errors.Is(err, ErrNotInitialised) || errors.Is(err, errNoLeader) || errors.Is(err, errUncertain) {
		reply(w, nil, err)
		return
	}
	e := execution{Result: result, Index: index}
	if err != nil {
		e = execution{Error: err.Error(), Index: index}
	}
	reply(w, e, nil)
}

// serveReset makes this node forget its cluster, once that has removed it.
func (s *Server) serveReset(w http.ResponseWriter, r *http.Request) {
	if id := r.FormValue("cluster"); id != strconv.FormatUint(s.State().Data.ClusterID, 10) {
		reply(w, nil, errors.New("cluster: not the one that this node is in"))
		return
	}
	s.membering.Lock()
	defer s.membering.Unlock()
	err := s.reset()
	if err == nil {
		s.log.Info("This meta node was removed from its cluster")
	}
	reply(w, struct{}{}, err)
}

// serveLease answers with 200 and the lease, or 409.
func (s *Server) serveLease(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.FormValue("node_id"), 10, 64)
	if name := r.FormValue("name"); err != nil || id == 0 || name == "" {
		reply(w, nil, errors.New("lease: needs name and node_id"))
		return
	}
	l, err := s.lease(r.FormValue("name"), id)
	if errors.Is(err, errNoLeader) {
		reply(w, nil, err)
	} else if err != nil {
		replyCode(w, http.StatusConflict, errorBody{err.Error()})
	} else {
		replyCode(w, http.StatusOK, l)
	}
}
