package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"concord/internal/backup"
	"concord/internal/cluster"
	"concord/internal/meta/server"
)

// plans says which copy of each shard a backup reads.
type plans struct {
	nodes  *dataNodes
	copies *copies
}

func (p *plans) routes() []server.Route {
	// A follower that is cut off does not know the newest shards: a plan without them would look complete.
	return []server.Route{{Pattern: "GET /backup/plan", OnLeader: true, Handler: answer(p.plan)}}
}

// plan lists the asked shards that have points, each with the copy to read. A shard of which no whole copy can be read
// is asked for again until the time to wait is over, and then listed with the reason and the best copy that there is.
func (p *plans) plan(r *http.Request) (any, error) {
	from := r.FormValue("from")
	if from != "" {
		if _, ok := p.nodes.state().DataNodeByAddr(from); !ok {
			return nil, fmt.Errorf("data node %q does not exist", from)
		}
	}
	asked, err := p.asked(r)
	if err != nil {
		return nil, err
	}
	wait, err := waitValue(r)
	if err != nil {
		return nil, err
	}
	ctx, until := r.Context(), time.Now().Add(wait)
	out := []backup.Source{}
	for {
		sources, err := p.sources(ctx, asked, from)
		if err != nil {
			return nil, err
		}
		again := []cluster.Shard{}
		for i, sh := range asked {
			switch s := sources[i]; {
			case s.Problem != "" && time.Now().Before(until):
				again = append(again, sh)
			case s.Problem != "" || s.Node != "":
				out = append(out, s)
			}
		}
		if asked = again; len(asked) == 0 {
			break
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	slices.SortFunc(out, func(a, b backup.Source) int { return cmp.Compare(a.ShardID, b.ShardID) })
	return out, nil
}

const (
	askAgain = 500 * time.Millisecond // after which shards of which no whole copy can be read are asked for again
	maxWait  = 24 * time.Hour
)

// waitValue is for how long a plan waits for whole copies.
func waitValue(r *http.Request) (time.Duration, error) {
	v := r.FormValue("wait")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > maxWait {
		return 0, fmt.Errorf("wait: must be a duration of at most %s", maxWait)
	}
	return d, nil
}

// sources has, for each of the asked shards, the copy to read as choose picks it: without a node and a problem for a
// shard that is empty.
func (p *plans) sources(ctx context.Context, asked []cluster.Shard, from string) ([]backup.Source, error) {
	copies := p.copies.describeCopies(ctx, asked, true)
	if err := ctx.Err(); err != nil {
		return nil, err // who did not answer may well be there
	}
	out := make([]backup.Source, len(asked))
	for i, sh := range asked {
		c, problem := choose(copies[sh.ID], from)
		out[i] = backup.Source{ShardID: sh.ID, Database: sh.Database, Policy: sh.RetentionPolicy, Problem: problem}
		if c != nil {
			out[i].Node, out[i].LastModified, out[i].Size = c.TCPAddr, c.LastModified.UnixNano(), c.Size
		}
	}
	return out, nil
}

// asked are the shards that a request names by db, rp and shard; without these, all.
func (p *plans) asked(r *http.Request) ([]cluster.Shard, error) {
	db, rp := r.FormValue("db"), r.FormValue("rp")
	var shard uint64
	if v := r.FormValue("shard"); v != "" {
		var err error
		if shard, err = strconv.ParseUint(v, 10, 64); err != nil {
			return nil, errors.New("shard: must be a number")
		}
	}
	st := p.nodes.state()
	if db != "" {
		d := st.Data.Database(db)
		if d == nil {
			return nil, fmt.Errorf("database %q does not exist", db)
		} else if rp != "" && d.RetentionPolicy(rp) == nil {
			return nil, fmt.Errorf("retention policy %q of database %q does not exist", rp, db)
		}
	}
	if shard != 0 {
		if _, ok := st.Shard(shard); !ok {
			return nil, fmt.Errorf("shard %d does not exist", shard)
		}
	}
	return slices.DeleteFunc(st.Shards(), func(sh cluster.Shard) bool {
		return db != "" && sh.Database != db || rp != "" && sh.RetentionPolicy != rp || shard != 0 && sh.ID != shard
	}), nil
}

// choose picks the copy of a shard to read. That is a whole one: of the node from where it has one, else with the
// newest write. problem is empty then. Where no whole copy can be read, problem says why, and the copy is the largest
// that can be, nil when none can. A shard that is empty has neither a copy nor a problem.
func choose(copies []Copy, from string) (best *Copy, problem string) {
	whole, empty := false, true
	for i := range copies {
		c := &copies[i]
		if c.State != missing || c.NotWhole != "" {
			empty = false
		}
		if !c.readable() {
			continue
		}
		if isWhole := c.problem() == ""; isWhole && !whole {
			whole, best = true, nil // what is not whole does not count any more
		} else if whole && !isWhole {
			continue
		}
		if c.Size > 0 && (best == nil || better(c, best, from, whole)) {
			best = c
		}
	}
	switch {
	case whole:
		return best, ""
	case len(copies) == 0:
		return nil, "it has no owners: its data was lost with a node that was removed"
	case empty:
		return nil, "" // it was never written to
	case best == nil:
		return nil, "no copy can be read: " + problems(copies)
	}
	return best, "no whole copy can be read: " + problems(copies)
}

// better reports whether copy a is to be read rather than b. Both are whole, or both are not.
func better(a, b *Copy, from string, whole bool) bool {
	if (a.TCPAddr == from) != (b.TCPAddr == from) {
		return a.TCPAddr == from
	}
	if !whole && a.Size != b.Size {
		return a.Size > b.Size
	}
	return a.LastModified.After(b.LastModified)
}
