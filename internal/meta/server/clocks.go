package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"concord/internal/clocks"
	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// clockTimeout bounds how long GET /show-cluster waits for the clocks of nodes.
const clockTimeout = 2 * time.Second

// serveCluster lists all nodes with their clocks.
func (a *API) serveCluster(w http.ResponseWriter, r *http.Request) {
	st := a.server.State()
	m := wire.Members{Data: members(st.DataNodes), Meta: members(st.MetaNodes)}
	for i := range m.Meta {
		m.Meta[i].HTTPScheme = a.server.peers.Scheme() // meta nodes reach each other by the same scheme
	}
	a.clocks.read(r.Context(), m)
	Reply(w, m, nil)
}

func members(nodes []cluster.Node) []wire.Member {
	out := make([]wire.Member, len(nodes))
	for i, n := range nodes {
		out[i] = wire.Member{Node: wire.Node(n), Addr: n.HTTPAddr, Status: "joined"}
		if n.Labels == nil {
			out[i].Labels = map[string]string{}
		}
	}
	return out
}

// clockReader asks nodes what time they have, and warns when a clock is off.
type clockReader struct {
	server *Server
	meta   *MetaMembers
	data   *DataMembers
	watch  *clocks.Watch
}

// reading is the clock of one member.
type reading struct {
	*wire.Member
	clocks.Skew
}

// read asks all members at the same time what time they have, and notes how far each is from the others. Data nodes
// also say by which scheme clients reach them.
func (c *clockReader) read(ctx context.Context, m wire.Members) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	var read []reading
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(member *wire.Member, addr string, clock func() (int64, error)) {
		wg.Go(func() {
			sent := time.Now()
			at, err := clock()
			skew, ok := clocks.Ask(sent, at, err)
			if !ok {
				return
			}
			c.watch.Observe(addr, skew)
			mu.Lock()
			defer mu.Unlock()
			read = append(read, reading{member, skew})
		})
	}
	for i := range m.Data {
		n := &m.Data[i]
		ask(n, n.TCPAddr, func() (int64, error) {
			_, who, err := c.data.identify(ctx, n.TCPAddr, 0)
			n.HTTPScheme = who.GetHttpScheme()
			return who.GetClock(), err
		})
	}
	for i := range m.Meta {
		n := &m.Meta[i]
		if n.TCPAddr == c.server.raftAddr {
			mu.Lock()
			read = append(read, reading{Member: n})
			mu.Unlock()
			continue
		}
		ask(n, n.HTTPAddr, func() (int64, error) {
			who, err := c.meta.identityOf(ctx, n.HTTPAddr)
			return who.Clock, err
		})
	}
	wg.Wait()
	note(read)
}

// note notes at each member how far its clock is from the one in the middle.
func note(read []reading) {
	all := make([]time.Duration, len(read))
	for i, r := range read {
		all[i] = r.By
	}
	reference := clocks.Reference(all)
	for _, r := range read {
		r.By -= reference
		ms := r.By.Milliseconds()
		r.ClockSkewMs, r.ClockOff = &ms, r.Off()
	}
}
