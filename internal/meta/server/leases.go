package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/meta/wire"
)

// leases are granted by the node that leads, and are in its memory alone. A new leader does not know what its
// predecessor granted, and grants nothing until that has ended.
type leases struct {
	server *Server
	time   time.Duration // for which a lease is granted

	mu      sync.Mutex
	term    uint64 // in which this node leads
	since   time.Time
	granted *emeta.Leases // in that term
}

// grant grants the lease with that name to a data node, or says who has it.
func (l *leases) grant(name string, node uint64) (*emeta.Lease, error) {
	st := l.server.st()
	if !st.leads() {
		return nil, errNoLeader
	}
	term := st.raft.CurrentTerm()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != term {
		l.term, l.since = term, time.Now()
		l.granted = emeta.NewLeases(l.time)
	}
	// The first term of a cluster has no predecessor.
	if f := st.raft.GetConfiguration(); f.Error() == nil && len(f.Configuration().Servers) > 1 {
		if wait := l.time - time.Since(l.since); wait > 0 {
			return nil, fmt.Errorf("lease %q may be held: the new leader grants leases in %s", name,
				wait.Round(time.Second))
		}
	}
	return l.granted.Acquire(name, node)
}

// serve answers with 200 and the lease, or 409.
func (l *leases) serve(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.FormValue("node_id"), 10, 64)
	if name := r.FormValue("name"); err != nil || id == 0 || name == "" {
		Reply(w, nil, errors.New("lease: needs name and node_id"))
		return
	}
	lease, err := l.grant(r.FormValue("name"), id)
	if errors.Is(err, errNoLeader) {
		Reply(w, nil, err)
	} else if err != nil {
		replyCode(w, http.StatusConflict, wire.Error{Error: err.Error()})
	} else {
		replyCode(w, http.StatusOK, lease)
	}
}
