package server

import (
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
)

const pollWait = 20 * time.Second // how long GET /state waits for a change

// news sends the state to the data nodes.
type news struct {
	server  *Server
	stop    <-chan struct{}              // closed when the API ends
	encoded atomic.Pointer[encodedState] // the last one that was asked for
}

// serveState answers with the state as soon as it is newer than the asked index. When that takes longer than the asked
// time it answers with 204, if this node follows a leader and so would know.
func (n *news) serveState(w http.ResponseWriter, r *http.Request) {
	after, err := indexValue(r)
	if err != nil {
		Reply(w, nil, err)
		return
	}
	wait := pollWait
	if v := r.FormValue("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil {
			Reply(w, nil, errors.New("wait: must be a duration"))
			return
		}
	}
	timeout := time.NewTimer(min(wait, pollWait))
	defer timeout.Stop()
	for {
		st, changed := n.server.st().fsm.current()
		if st.Data.ClusterID == 0 {
			Reply(w, nil, ErrNotInitialised)
			return
		}
		if st.Index > after {
			n.send(w, st)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			if _, err := n.server.leaderHTTP(); err != nil {
				Reply(w, nil, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
			return
		case <-n.stop:
			Reply(w, nil, errNoLeader)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// serveLatest answers with the state that has all that was confirmed before the request, or with 204 when its index is
// not above the asked one. Only the leader can: it makes sure that it still leads.
func (n *news) serveLatest(w http.ResponseWriter, r *http.Request) {
	after, err := indexValue(r)
	if err == nil {
		err = n.server.st().confirmLead()
	}
	st := n.server.State()
	switch {
	case err != nil:
		Reply(w, nil, err)
	case st.Index > after:
		n.send(w, st)
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

// send answers with st. All data nodes ask for the same one at the same time: it is encoded once.
func (n *news) send(w http.ResponseWriter, st *cluster.State) {
	e := n.encoded.Load()
	if e == nil || e.of != st {
		b, err := st.MarshalBinary()
		if err != nil {
			Reply(w, nil, err)
			return
		}
		e = &encodedState{st, b}
		n.encoded.Store(e)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(e.b)
}
