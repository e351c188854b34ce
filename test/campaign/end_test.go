//go:build campaign

package campaign

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

// awaitHandoff heals all links, waits until hinted handoff is done, and keeps
// what each owner has then: when the end is wrong, it tells whether the repairs made it so.
func (c *campaign) awaitHandoff() {
	c.t.Helper()
	c.cluster.Links.Heal()
	var why string
	done := process.Poll(settleTime, func() bool {
		for _, n := range c.cluster.Data {
			held, err := n.Held()
			if why = fmt.Sprintf("%s has hints for nodes, in bytes: %v", n.Name, held.Hints); err != nil {
				why = err.Error()
			}
			if err != nil || len(held.Hints) > 0 {
				return false
			}
		}
		return true
	})
	if !done {
		c.t.Fatalf("hinted handoff is not done %v after the last fault: %s", settleTime, why)
	}
	c.event("hinted handoff is done")
	shards := c.shards()
	for _, sh := range shards {
		for _, n := range c.owners(sh) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			got, err := query(ctx, n, between(sh.Start, sh.End))
			cancel()
			if err != nil {
				c.event("%s: %v", n.Name, err)
				continue
			}
			c.rec.keep(n.Name, got)
		}
	}
}

// settle waits until nothing is left to do: no hinted handoff, no entropy, no copy that is not whole. It returns what
// still is after settleTime, empty for nothing.
func (c *campaign) settle() (why string) {
	calm := time.Time{}
	if !process.Poll(settleTime, func() bool {
		why = c.unsettled()
		if why != "" {
			calm = time.Time{}
			return false
		}
		if calm.IsZero() {
			calm = time.Now()
		}
		// Two checks of every shard, so that none of them is from before.
		return time.Since(calm) > 8*time.Second
	}) {
		if why == "" {
			why = "it is never so for long"
		}
		repairs, err := c.cluster.TryCtl("entropy", "repairs")
		if err != nil {
			repairs = err.Error()
		}
		return why + "\n" + repairs
	}
	return ""
}

// unsettled names something that is still to be done, and asks for repairs
// where nobody else does.
func (c *campaign) unsettled() string {
	for _, n := range c.cluster.DataNodes() {
		switch held, err := n.Held(); {
		case err != nil:
			return err.Error()
		case len(held.Hints) > 0:
			return fmt.Sprintf("%s has hints for nodes, in bytes: %v", n.Name, held.Hints)
		case held.NotWhole > 0:
			return fmt.Sprintf("%d copies of %s are not whole", held.NotWhole, n.Name)
		}
	}
	for _, n := range c.cluster.DataNodes() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		s, raw, err := n.Client().EntropyStatus(ctx)
		cancel()
		if err != nil {
			return fmt.Sprintf("entropy status of %s: %v", n.Name, err)
		}
		if s.Clean() {
			continue
		}
		if !c.plan.autoRepair && len(s.Queued) == 0 {
			for _, sh := range s.Shards {
				if _, err := c.cluster.TryCtl("entropy", "repair", sh.ID); err != nil {
					return err.Error()
				}
				c.event("entropy repair %s (%s)", sh.ID, sh.Status)
			}
		}
		return n.Name + " says " + strings.TrimSpace(string(raw))
	}
	return ""
}

// shards are those of the campaign, one in each group, with all their owners.
func (c *campaign) shards() []wire.Shard {
	c.t.Helper()
	var all, out []wire.Shard
	if err := json.Unmarshal([]byte(c.cluster.Ctl("show-shards", "-json")), &all); err != nil {
		c.t.Fatal(err)
	}
	groups := make(map[uint64]bool)
	for _, sh := range all {
		if sh.Database != database {
			continue
		}
		if groups[sh.GroupID] || len(sh.Owners) != c.plan.copies || len(c.owners(sh)) != c.plan.copies {
			c.t.Fatalf("shard %d: want one shard with %d owners in a group: %+v", sh.ID, c.plan.copies, all)
		}
		groups[sh.GroupID] = true
		out = append(out, sh)
	}
	if len(out) < firstDays {
		c.t.Fatalf("only %d shards", len(out))
	}
	return out
}

// owners are a shard's owners.
func (c *campaign) owners(sh wire.Shard) (out []*process.Node) {
	for _, o := range sh.Owners {
		for _, n := range c.cluster.Data {
			if n.TCP == o.TCPAddr {
				out = append(out, n)
			}
		}
	}
	return out
}

// compareOwners asks every owner of every shard, with all links between data nodes
// cut so that nobody else can answer for it.
func (c *campaign) compareOwners() {
	c.t.Helper()
	shards := c.shards()
	for _, n := range c.cluster.Data {
		c.setBoth(n, c.cluster.Data, process.Link{Mode: process.Refuse})
	}
	defer c.cluster.Links.Heal()
	for _, sh := range shards {
		var first *process.Node
		var firstHas map[key]int64
		for _, n := range c.owners(sh) {
			what := fmt.Sprintf("shard %d of %s", sh.ID, n.Name)
			got := c.compare(what, n, sh.Start, sh.End)
			switch {
			case got == nil: // it could not be asked
			case first == nil:
				first, firstHas = n, got
			default:
				problems, different := c.rec.differences(first.Name, n.Name, firstHas, got, 3)
				c.report(what, problems, different, len(got))
			}
		}
	}
}

// compareQueries asks every node for everything, as a client would.
func (c *campaign) compareQueries() {
	c.t.Helper()
	for _, n := range c.cluster.Data {
		c.cluster.Await(n.Name+" reaches the others again", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), clientWaits)
			defer cancel()
			_, err := n.Client().Query(ctx, database, "SELECT count(v) FROM m")
			return err == nil
		})
		c.compare("all of "+n.Name, n, time.Unix(0, 0), time.Unix(0, 1<<62))
	}
}

// compare judges what a node answers, and returns it, or nil when it does not answer.
func (c *campaign) compare(what string, n *process.Node, from, to time.Time) map[key]int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := query(ctx, n, between(from, to))
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return nil
	}
	problems, wrong := c.rec.compare(what, got, from.UnixNano(), to.UnixNano(), 3)
	c.report(what, problems, wrong, len(got))
	return got
}

// report fails the test for points that are wrong, of which some are told in full.
func (c *campaign) report(what string, problems []string, wrong, of int) {
	c.t.Helper()
	for _, p := range problems {
		c.t.Error(p)
	}
	if wrong > len(problems) {
		c.t.Errorf("%s: and %d more points are wrong, of %d", what, wrong-len(problems), of)
	}
}

func between(from, to time.Time) string {
	return fmt.Sprintf("SELECT v, s FROM m WHERE time >= %d AND time < %d", from.UnixNano(), to.UnixNano())
}
