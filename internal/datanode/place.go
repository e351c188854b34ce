package datanode

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/rpc"
	"concord/internal/whois"
)

const (
	// for another member to confirm who this node is, before Open returns with a node that serves nothing
	startWait    = 5 * time.Second
	confirmAgain = time.Second // between two attempts of a node that serves nothing
	claimAgain   = 30 * time.Second
)

// place is this node's hold on its place in the cluster. All parts run while it is confirmed, and only an idle
// server otherwise.
type place struct {
	process uint64                 // names this process
	refusal atomic.Pointer[string] // why this node serves nothing; nil while it serves
	plain   atomic.Pointer[string] // why it waits to be adopted; nil when it does not
	check   chan struct{}          // holds one signal: look again whether the place is still this node's
	left    atomic.Bool            // the cluster was left, and the parts have not forgotten it yet
	cancel  context.CancelFunc
	kept    chan struct{} // closed when keepPlace has ended
	idle    *idleServer   // nil while the parts serve
	base    int           // how much of Node.stop is not of the parts
	// unconfirmed is how many attempts in a row ended without anybody confirming the place.
	unconfirmed int
}

// Refusal is why this node serves nothing; it is empty while it serves.
func (n *Node) Refusal() string {
	if r := n.place.refusal.Load(); r != nil {
		return *r
	}
	return ""
}

// takePlace opens the parts once other members confirm that this node is the data node that its folders say. When
// that takes long, it opens an idle server instead. From then on it follows who holds the place.
func (n *Node) takePlace() error {
	n.place.base = len(n.stop)
	if n.Meta.NodeID() != 0 || n.plain() != "" {
		n.place.idle = n.openIdleServer()
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.place.cancel, n.place.kept = cancel, make(chan struct{})
	reason, ok := n.awaitConfirmation(ctx)
	if ok {
		if err := n.openParts(); err != nil {
			close(n.place.kept)
			return err
		}
	} else if err := n.refuse(reason); err != nil {
		close(n.place.kept)
		return err
	}
	go func() { defer close(n.place.kept); n.keepPlace(ctx) }()
	return nil
}

// leavePlace ends what takePlace began.
func (n *Node) leavePlace() error {
	if n.place.cancel != nil {
		n.place.cancel()
		<-n.place.kept
		n.place.cancel = nil
	}
	err := n.closeParts()
	n.closeIdleServer()
	return err
}

func (n *Node) awaitConfirmation(ctx context.Context) (reason string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		verdict, why := n.confirm(ctx)
		if verdict != whois.Unconfirmed || n.plain() != "" {
			return why, verdict == whois.Confirmed
		}
		reason = why
		select {
		case <-ctx.Done():
			return reason, false
		case <-n.Meta.Changed():
		case <-time.After(confirmAgain / 4):
		}
	}
}

// confirm asks the other members whether this process is the data node that its folders say.
func (n *Node) confirm(ctx context.Context) (whois.Verdict, string) {
	id := n.Meta.NodeID()
	if why := n.plain(); why != "" {
		return whois.Unconfirmed, why
	}
	if id == 0 {
		return whois.Confirmed, ""
	}
	st := n.Meta.State()
	var members []whois.Member
	for _, server := range n.Meta.MetaServers() {
		members = append(members, func(ctx context.Context) (whois.Report, error) {
			return n.Meta.AskPlace(ctx, server)
		})
	}
	others := 0
	for _, other := range st.DataNodes {
		if other.ID != id {
			others++
			members = append(members, func(ctx context.Context) (whois.Report, error) { return n.askWhoIs(ctx, other) })
		}
	}
	self := whois.Self{
		Node: id, Identity: n.Meta.Identity(), Process: n.place.process, Attempts: n.place.unconfirmed,
	}
	verdict, reason := self.Confirm(ctx, whois.Recorded(st, id), members)
	if verdict == whois.Unconfirmed {
		n.place.unconfirmed++
	} else {
		n.place.unconfirmed = 0
	}
	// Nobody but the meta nodes could say more.
	if _, member := st.DataNode(id); verdict == whois.Unconfirmed && member && others == 0 {
		return whois.Confirmed, ""
	}
	return verdict, reason
}

func (n *Node) askWhoIs(ctx context.Context, other cluster.Node) (w whois.Report, err error) {
	conn, err := n.pool.Conn(other.TCPAddr)
	if err != nil {
		return w, err
	}
	about := &rpc.WhoIsRequest{NodeId: n.Meta.NodeID(), ClusterId: n.Meta.ClusterID()}
	r, err := rpc.NewMembershipClient(conn).WhoIs(ctx, about)
	if err != nil {
		return w, err
	}
	return whois.Report{
		Index: r.Index, Member: r.Member, Identity: r.Identity, Addr: r.TcpAddr, Process: r.Process, Refused: r.Refused,
	}, nil
}

// CheckPlace makes this node look again whether its place is still its own.
func (n *Node) CheckPlace() {
	select {
	case n.place.check <- struct{}{}:
	default:
	}
}

// keepPlace follows who holds this node's place until ctx ends.
func (n *Node) keepPlace(ctx context.Context) {
	again := time.NewTicker(confirmAgain)
	defer again.Stop()
	var claimed time.Time
	for ctx.Err() == nil {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-n.Meta.Changed():
		case <-n.place.check:
			asked = true
		case <-again.C: // a change that came between two looks, too
		}
		serving, own := n.Refusal() == "", whois.Recorded(n.Meta.State(), n.Meta.NodeID())
		if serving && own.Member && own.Identity == "" && time.Since(claimed) > claimAgain {
			n.claim()
			claimed = time.Now()
		}
		if serving && !asked && own.Member && (own.Identity == "" || own.Identity == n.Meta.Identity()) {
			continue
		}
		if serving {
			n.place.unconfirmed = 0
		}
		verdict, reason := n.confirm(ctx)
		if ctx.Err() != nil {
			return
		}
		var err error
		switch {
		case serving && verdict == whois.Refuted, !serving && verdict != whois.Confirmed:
			err = n.refuse(reason)
		case !serving:
			if err = n.openParts(); err == nil {
				n.log.Info("This node serves", zap.Uint64("node_id", n.Meta.NodeID()))
			}
		}
		if err != nil {
			n.log.Error("This node serves nothing until it is started again", zap.Error(err))
			n.refuse(err.Error())
			return
		}
	}
}

// claim tells the cluster the identity of a node that joined with an earlier version.
func (n *Node) claim() {
	if err := n.Meta.Execute(cluster.ClaimDataNode{ID: n.Meta.NodeID(), Identity: n.Meta.Identity()}); err != nil {
		n.log.Warn("Cannot record the identity of this node", zap.Error(err))
		n.CheckPlace()
	}
}

// refuse makes this node serve nothing, and say why.
func (n *Node) refuse(reason string) error {
	if n.Refusal() == reason {
		return nil
	}
	n.log.Error("This node serves nothing", zap.String("reason", reason))
	n.place.refusal.Store(&reason)
	n.closeParts()
	if n.place.idle == nil {
		n.place.idle = n.openIdleServer()
	}
	return n.place.idle.openHTTP()
}

// partsOpen reports whether the parts are open. The node's life must be held.
func (n *Node) partsOpen() bool { return len(n.stop) > n.place.base }

// closeParts stops all that serves and all that works on the shards.
func (n *Node) closeParts() error {
	n.life.Lock()
	defer n.life.Unlock()
	return n.unwind(n.place.base)
}
