package server

import (
	"context"
	"net/http"
	"time"

	"concord/internal/clocks"
	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
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

// question asks one member what time it has.
type question struct {
	*wire.Member
	addr  string
	clock func(ctx context.Context) (int64, error)
}

// read asks all members at the same time what time they have, and notes how far each is from the others. Data nodes
// also say by which scheme clients reach them.
func (c *clockReader) read(ctx context.Context, m wire.Members) {
	var questions []question
	var read []reading
	for i := range m.Data {
		n := &m.Data[i]
		questions = append(questions, question{n, n.TCPAddr, func(ctx context.Context) (int64, error) {
			_, who, err := c.data.identify(ctx, n.TCPAddr, 0)
			n.HTTPScheme = who.GetHttpScheme()
			return who.GetClock(), err
		}})
	}
	for i := range m.Meta {
		n := &m.Meta[i]
		if n.TCPAddr == c.server.raftAddr {
			read = append(read, reading{Member: n})
			continue
		}
		questions = append(questions, question{n, n.HTTPAddr, func(ctx context.Context) (int64, error) {
			who, err := c.meta.identityOf(ctx, n.HTTPAddr)
			return who.Clock, err
		}})
	}
	for _, a := range rpc.AskAll(ctx, questions, clockTimeout, c.ask) {
		if a.Value != nil {
			read = append(read, *a.Value)
		}
	}
	note(read)
}

// ask returns the clock of a member. It is nil when the member does not tell it fast enough.
func (c *clockReader) ask(ctx context.Context, q question) (*reading, error) {
	sent := time.Now()
	at, err := q.clock(ctx)
	skew, ok := clocks.Ask(sent, at, err)
	if !ok {
		return nil, err
	}
	c.watch.Observe(q.addr, skew)
	return &reading{q.Member, skew}, nil
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
