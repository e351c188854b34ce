// Package whois finds out whether a process is the data node that its folders say it is.
//
// Folders can be older than the cluster: another machine got their node's place meanwhile. And they can be a copy of
// those of a process that runs. A node that answers from such folders gives stale answers and takes writes that no
// other node ever gets. So each node has an identity, a random text that it makes when it joins. The cluster's state
// has the identity that holds each place. Before a node serves anything, another member must confirm its identity:
//
//   - The newest state among those that answer has this node's identity at its place.
//   - A member that calls the address of the place reaches this process.
//
// A single data node has nobody but the meta nodes to ask. It serves when none of them answers.
package whois

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/rpc"
	"concord/internal/trust"
)

const (
	// for a member to answer; twice as long after each attempt that nobody confirmed, and 16 seconds at most: machines
	// on which all nodes start at the same time may be slow
	askTimeout  = 2 * time.Second
	longerAsks  = 3
	lookTimeout = time.Second // for the process at the place to answer a member, which knows of no limit
)

// Self is what a process takes itself for.
type Self struct {
	Node     uint64
	Identity string
	Process  uint64
	Attempts int // so far, that nobody has confirmed
}

// Report is what a member says about the place of a data node.
type Report struct {
	Index    uint64 `json:"index"`          // of the state that it is from
	Member   bool   `json:"member"`         // the cluster has such a data node
	Identity string `json:"identity"`       // that holds the place; empty when its node joined with an earlier version
	Addr     string `json:"addr"`           // TCP address of the place
	Process  uint64 `json:"process,string"` // that answers there, 0 when none does
	// Refused is why the process there does not let the member ask: a text of package trust.
	Refused string `json:"refused,omitempty"`
}

// Recorded is the report of a node from its copy of the state alone.
func Recorded(st *cluster.State, node uint64) Report {
	n, ok := st.DataNode(node)
	return Report{Index: st.Index, Member: ok, Identity: n.Identity, Addr: n.TCPAddr}
}

// Look completes a report with the process that answers at the place. It connects at once, also to a node that was down
// a moment ago: who asks has just started, perhaps.
func (w *Report) Look(ctx context.Context, pool *rpc.Pool) {
	if !w.Member {
		return
	}
	conn, err := pool.Own(w.Addr)
	if err != nil {
		return
	}
	defer conn.Close()
	wait := lookTimeout
	if end, ok := ctx.Deadline(); ok {
		wait = time.Until(end) / 2 // the other half is for the answer
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	who, err := rpc.NewMembershipClient(conn).Identify(ctx, &rpc.IdentifyRequest{}, grpc.WaitForReady(true))
	if err == nil {
		w.Process = who.Process
	} else if refusal := trust.RefusalIn(err); refusal != nil {
		w.Refused = refusal.Error()
	}
}

// Verdict is what the reports of the members come to.
type Verdict int

// The verdicts.
const (
	Unconfirmed Verdict = iota // nobody knows better, and nobody confirms
	Confirmed
	Refuted
)

// Member asks another member for its report.
type Member func(context.Context) (Report, error)

// Confirm asks all members at the same time. own is the report of this node's own copy of the state, which is believed
// when it is the newest. The reason, for people, is empty for Confirmed.
func (s Self) Confirm(ctx context.Context, own Report, members []Member) (Verdict, string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout<<min(s.Attempts, longerAsks))
	defer cancel()
	type answer struct {
		Report
		err error
	}
	answers := make(chan answer, len(members))
	for _, ask := range members {
		go func() {
			w, err := ask(ctx)
			answers <- answer{w, err}
		}()
	}
	reports := []Report{own}
	var refused error            // why a member does not let this node ask
	last := Unconfirmed          // as the reports so far have it
	var settled <-chan time.Time // when last counts, although some members have not answered
	for waiting := len(members); waiting > 0; waiting-- {
		select {
		case w := <-answers:
			if w.err != nil {
				refused = cmp.Or(refused, trust.RefusalIn(w.err))
				continue
			}
			reports = append(reports, w.Report)
			if v, _ := s.judge(reports, refused); v != last {
				last, settled = v, graceOf(v)
			}
			continue
		case <-settled:
		case <-ctx.Done():
		}
		break
	}
	return s.judge(reports, refused)
}

// graceOf is the time for others to answer, once some have come to a verdict: they may know a newer state.
func graceOf(v Verdict) <-chan time.Time {
	switch v {
	case Confirmed:
		return time.After(300 * time.Millisecond)
	case Refuted:
		return time.After(2 * time.Second)
	}
	return nil
}

// judge believes the newest of the reports. The first is this node's own. refused is why a member gave none.
func (s Self) judge(reports []Report, refused error) (Verdict, string) {
	newest := reports[0]
	for _, w := range reports {
		if w.Index > newest.Index {
			newest = w
		}
	}
	switch {
	case newest.Index == 0: // no copy of the state is there
	case !newest.Member:
		return Refuted, fmt.Sprintf("this node was data node %d, which was removed from the cluster: "+
			"add it again with influxd-ctl add-data, or stop it", s.Node)
	case newest.Identity != "" && newest.Identity != s.Identity:
		return Refuted, fmt.Sprintf("this node was data node %d, whose place another one at %s has now: "+
			"stop it, or start it with empty folders to use it again", s.Node, newest.Addr)
	}
	reached, why := false, ""
	for _, w := range reports[1:] {
		if w.Addr != newest.Addr {
			continue
		}
		why = cmp.Or(why, w.Refused)
		if w.Process != 0 && w.Process != s.Process {
			return Refuted, fmt.Sprintf("this node has the folders of data node %d, but another process answers at %s: "+
				"two processes have copies of the same folders, stop one of them", s.Node, newest.Addr)
		}
		reached = reached || w.Process != 0
	}
	switch {
	case reached:
		return Confirmed, ""
	case len(reports) > 1:
		return Unconfirmed, fmt.Sprintf("the cluster knows this node as data node %d at %s, where no other member "+
			"reaches it: %s", s.Node, newest.Addr,
			cmp.Or(why, "set hostname and bind-address as they were, or run influxd-ctl update-data"))
	}
	waits := fmt.Sprintf("this node waits until another member of the cluster answers "+
		"and confirms that it is data node %d", s.Node)
	if refused != nil {
		waits += ": " + refused.Error()
	}
	return Unconfirmed, waits
}
