package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
)

// rebalances plans which copies of shards to make, move and remove (package balance), and does it.
//
// A run lives as long as the request that began it, on the meta node that leads. It remembers nothing that matters:
// the next run looks at the cluster again, and goes on from there. So it does not matter which process was killed.
// What a run leaves behind is one copy that is being made, which goes on, and is recorded when it is done. The next
// run waits for it.
type rebalances struct {
	nodes   *dataNodes
	copies  *copies
	losses  *losses
	shards  *shards
	execute func(cluster.Op) (any, error)
	leads   func() bool
	repair  func(ctx context.Context, shard uint64) error

	busy       atomic.Bool     // there is a run
	closing    context.Context // ends with close
	close      context.CancelFunc
	background sync.WaitGroup // copies of runs, which may have ended
}

func newRebalances(d Deps, s *shards) *rebalances {
	r := &rebalances{
		nodes: s.nodes, copies: s.copies, losses: s.losses, shards: s,
		execute: d.Execute, leads: d.Leads, repair: d.Repair,
	}
	r.closing, r.close = context.WithCancel(context.Background())
	return r
}

func (r *rebalances) routes() []server.Route {
	return []server.Route{
		{Pattern: "GET /rebalance", OnLeader: true, Handler: answer(r.show), Needs: removePermissions},
		{Pattern: "POST /rebalance", OnLeader: true, Handler: r.serve, Needs: removePermissions},
		{Pattern: "POST /undrain-data", OnLeader: true, Handler: answer(r.undrain), Needs: removePermissions},
	}
}

// end stops what runs, and waits for it.
func (r *rebalances) end() {
	r.close()
	r.background.Wait()
}

// show plans, and changes nothing.
func (r *rebalances) show(req *http.Request) (any, error) {
	n, err := r.toDrain(req)
	if err != nil {
		return nil, err
	}
	l, p, err := r.planned(req.Context(), n)
	if err != nil {
		return nil, err
	}
	return l.show(p), nil
}

// toDrain is the node that a request wants to be drained; its ID is 0 for none.
func (r *rebalances) toDrain(req *http.Request) (cluster.Node, error) {
	addr := req.FormValue("drain")
	if addr == "" {
		return cluster.Node{}, nil
	}
	n, err := r.nodes.node(addr)
	if err == nil && n.Passive {
		err = fmt.Errorf("data node %s is passive and owns no shards: "+
			"remove it with influxd-ctl remove-data %[1]s", addr)
	}
	return n, err
}

// planned makes the plan of a run that drains a node, and refuses when its copies have nowhere to go. The ID of the
// node is 0 for none.
func (r *rebalances) planned(ctx context.Context, drain cluster.Node) (layout, balance.Plan, error) {
	l := r.look(ctx)
	if drain.ID != 0 {
		l.drain(drain.ID)
	}
	p := l.plan()
	stay := l.problems(slices.DeleteFunc(slices.Clone(p.Unplaced), func(u balance.Unplaced) bool {
		return !slices.Contains(u.Drained, drain.ID)
	}))
	if len(stay) == 0 {
		return l, p, ctx.Err()
	}
	return l, p, fmt.Errorf("data node %s cannot be drained: %s; add a data node with add-data, make room, "+
		"or let policies ask for fewer copies with ALTER RETENTION POLICY", drain.TCPAddr, strings.Join(stay, "; "))
}

// drain makes a layout one in which a node is being drained.
func (l *layout) drain(node uint64) {
	st := *l.state
	st.DataNodes = slices.Clone(st.DataNodes)
	for i := range st.DataNodes {
		if n := &st.DataNodes[i]; n.ID == node {
			n.Draining = true
		}
	}
	l.state = &st
}

// undrain lets a data node get shards again.
func (r *rebalances) undrain(req *http.Request) (any, error) {
	n, err := r.nodes.node(req.FormValue("addr"))
	if err != nil {
		return nil, err
	} else if !n.Draining {
		return nil, fmt.Errorf("data node %s is not being drained", n.TCPAddr)
	}
	changed, err := r.execute(cluster.DrainDataNode{ID: n.ID, Ended: true})
	if err != nil {
		return nil, err
	}
	return wire.Node(changed.(cluster.Node)), nil
}

// runEnds is how long a request waits for the run before it, whose client has just gone.
const runEnds = 2 * time.Second

// serve runs a rebalance. The answer has a line for each event, and ends with the run. The run ends when the client
// goes away.
func (r *rebalances) serve(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(r.closing, cancel)()
	one, err := r.begin(ctx, req)
	if err != nil {
		server.Reply(w, nil, err)
		return
	}
	defer r.busy.Store(false)
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, flush := json.NewEncoder(w), http.NewResponseController(w)
	one.say = func(e wire.RebalanceEvent) {
		if lines.Encode(e) != nil || flush.Flush() != nil {
			cancel()
		}
	}
	last := wire.RebalanceEvent{Ended: true}
	if err := one.do(ctx); err != nil {
		last.Error = err.Error()
	}
	last.Empty = drained(r.nodes.state())
	one.say(last)
}

// drained are the addresses of the data nodes that are being drained and own nothing any more.
func drained(st *cluster.State) (out []string) {
	live := st.Live(time.Now())
	for _, n := range st.DataNodes {
		owns := false
		for _, sh := range live {
			owns = owns || sh.Owned(n.ID)
		}
		if n.Draining && !owns {
			out = append(out, n.TCPAddr)
		}
	}
	return out
}

// begin makes the run of a request, and refuses it when it cannot reach its aim or when there is one already.
func (r *rebalances) begin(ctx context.Context, req *http.Request) (*run, error) {
	one := &run{rebalances: r, failed: make(map[uint64]string)}
	if v := req.FormValue("max-rate"); v != "" {
		var err error
		if one.maxRate, err = strconv.ParseUint(v, 10, 64); err != nil {
			return nil, errors.New("max-rate: must be bytes a second")
		}
	}
	n, err := r.toDrain(req)
	if err != nil {
		return nil, err
	}
	wait, stop := context.WithTimeout(ctx, runEnds)
	defer stop()
	for !r.busy.CompareAndSwap(false, true) {
		if pause(wait, runEnds/20) != nil {
			return nil, errors.New("a rebalance is running already: wait until it has ended, or stop its command")
		}
	}
	if n.ID != 0 {
		if _, _, err = r.planned(ctx, n); err == nil {
			_, err = r.execute(cluster.DrainDataNode{ID: n.ID})
		}
	}
	if err != nil {
		r.busy.Store(false)
		return nil, err
	}
	return one, nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
