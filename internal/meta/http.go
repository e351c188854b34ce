package meta

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"concord/internal/cluster"
)

const (
	pollWait   = 20 * time.Second // how long GET /state waits for a change
	maxCommand = 1 << 20          // bytes of a POST /execute
)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.HandleFunc("GET /show-cluster", s.serveCluster)
	mux.HandleFunc("GET /show-shards", s.serveShards)
	mux.HandleFunc("GET /state", s.serveState)
	mux.HandleFunc("POST /execute", s.serveExecute)
	mux.HandleFunc("POST /add-meta", func(w http.ResponseWriter, r *http.Request) {
		addr := r.FormValue("addr")
		if addr == "" {
			addr = s.httpAddr
		}
		n, err := s.AddMeta(r.Context(), addr)
		reply(w, n, err)
	})
	mux.HandleFunc("POST /add-data", func(w http.ResponseWriter, r *http.Request) {
		n, err := s.AddData(r.Context(), r.FormValue("addr"))
		reply(w, n, err)
	})
	mux.HandleFunc("POST /remove-data", func(w http.ResponseWriter, r *http.Request) {
		force := false
		if v := r.FormValue("force"); v != "" {
			var err error
			if force, err = strconv.ParseBool(v); err != nil {
				reply(w, nil, errors.New("force: must be true or false"))
				return
			}
		}
		n, err := s.RemoveData(r.Context(), r.FormValue("addr"), force)
		reply(w, n, err)
	})
	if s.ShardRepair != nil {
		mux.Handle("/shard-repair/", s.ShardRepair)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxCommand)
		mux.ServeHTTP(w, r)
	})
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
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// Status is the answer of GET /status.
type Status struct {
	NodeType string   `json:"nodeType"`
	Leader   string   `json:"leader"` // Raft address, empty without one
	HTTPAddr string   `json:"httpAddr"`
	RaftAddr string   `json:"raftAddr"`
	Peers    []string `json:"peers"` // Raft addresses
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request) {
	leader, _ := s.store.raft.LeaderWithID()
	st := Status{NodeType: "meta", Leader: string(leader), HTTPAddr: s.httpAddr, RaftAddr: s.raftAddr, Peers: []string{}}
	if f := s.store.raft.GetConfiguration(); f.Error() == nil {
		for _, p := range f.Configuration().Servers {
			if p.ID == s.store.id {
				p.Address = raft.ServerAddress(s.raftAddr)
			}
			st.Peers = append(st.Peers, string(p.Address))
		}
	}
	reply(w, st, nil)
}

// Members is the answer of GET /show-cluster.
type Members struct {
	Data []cluster.Node `json:"data"`
	Meta []cluster.Node `json:"meta"`
}

func (s *Server) serveCluster(w http.ResponseWriter, _ *http.Request) {
	st := s.State()
	reply(w, Members{
		Data: append([]cluster.Node{}, st.DataNodes...), Meta: append([]cluster.Node{}, st.MetaNodes...),
	}, nil)
}

// ShardInfo is one entry of the answer of GET /show-shards.
type ShardInfo struct {
	ID              uint64       `json:"id"`
	Database        string       `json:"database"`
	RetentionPolicy string       `json:"retention-policy"`
	ReplicaN        int          `json:"replica-n"`
	ShardGroupID    uint64       `json:"shard-group-id"`
	StartTime       time.Time    `json:"start-time"`
	EndTime         time.Time    `json:"end-time"` // where it was truncated, if it was
	ExpireTime      *time.Time   `json:"expire-time,omitempty"`
	TruncatedAt     *time.Time   `json:"truncated-at,omitempty"`
	Owners          []ShardOwner `json:"owners"`
}

// ShardOwner is a data node that holds a copy of a shard.
type ShardOwner struct {
	ID      uint64 `json:"id"`
	TCPAddr string `json:"tcpAddr"`
}

func (s *Server) serveShards(w http.ResponseWriter, _ *http.Request) {
	st := s.State()
	out := []ShardInfo{}
	for _, sh := range st.Shards() {
		i := ShardInfo{
			ID: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, ReplicaN: sh.ReplicaN, ShardGroupID: sh.GroupID,
			StartTime: time.Unix(0, sh.Start).UTC(), EndTime: time.Unix(0, sh.End).UTC(), Owners: []ShardOwner{},
		}
		if sh.Expires != 0 {
			t := time.Unix(0, sh.Expires).UTC()
			i.ExpireTime = &t
		}
		if sh.Truncated {
			i.TruncatedAt = &i.EndTime
		}
		for _, id := range sh.Owners {
			n, _ := st.DataNode(id)
			i.Owners = append(i.Owners, ShardOwner{id, n.TCPAddr})
		}
		out = append(out, i)
	}
	reply(w, out, nil)
}

// serveState answers with the state as soon as it is newer than the asked
// index, or with 204 when that takes too long.
func (s *Server) serveState(w http.ResponseWriter, r *http.Request) {
	var after uint64
	if v := r.FormValue("index"); v != "" {
		var err error
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			reply(w, nil, errors.New("index: must be a number"))
			return
		}
	}
	timeout := time.NewTimer(pollWait)
	defer timeout.Stop()
	for {
		st, changed := s.store.current()
		if st.Index > after {
			b, err := st.MarshalBinary()
			if err != nil {
				reply(w, nil, err)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(b)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
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
	result, index, err := s.store.apply(c)
	if errors.Is(err, ErrNotInitialised) || errors.Is(err, errNoLeader) {
		reply(w, nil, err)
		return
	}
	e := execution{Result: result, Index: index}
	if err != nil {
		e = execution{Error: err.Error(), Index: index}
	}
	reply(w, e, nil)
}
