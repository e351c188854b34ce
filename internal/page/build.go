package page

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/entropy"
)

const (
	// diskLow is which part of a disk must be free: below it, an operator has to act soon.
	diskLow = 0.05
	// hintsOld is how long hinted handoff may wait before somebody should look.
	hintsOld = time.Hour
	// repairFails is how many attempts of a repair fail before somebody should look.
	repairFails = 3
)

// builder makes the state of the page for one user.
type builder struct {
	*snapshot
	deps  Deps
	user  emeta.User // nil for one that may do everything
	state State
}

// build makes the state for a user, nil for one that may do everything.
func build(s *snapshot, d Deps, user emeta.User) State {
	b := &builder{snapshot: s, deps: d, user: user}
	b.state = State{
		Attention: make(map[string]Attention), Nodes: make(map[string]Node, len(s.nodes)),
		Shards: make(map[string]Shard, len(s.live)),
	}
	b.addNodes()
	b.addShards()
	if b.admin() {
		b.addRepairs()
		b.addWork()
		b.addMeta()
		b.addPolicies()
		b.addDeletes()
		b.state.Events = make(map[string]Event, len(s.events))
		for _, e := range s.events {
			b.state.Events[e.key] = e.Event
		}
	}
	b.summarize()
	return b.state
}

func (b *builder) admin() bool { return isAdmin(b.user) }

// isAdmin reports whether a user may see what is for administrators.
func isAdmin(user emeta.User) bool { return cluster.May(user, cluster.ViewAdmin, "") }

// attend adds something that needs a person.
func (b *builder) attend(key string, a Attention) { b.state.Attention[key] = a }

// addNodes adds the data nodes. Users who are not administrators see which there are, and which are up.
func (b *builder) addNodes() {
	for _, n := range b.nodes {
		out := Node{
			Address: n.TCPAddr, HTTP: n.HTTPAddr, Up: n.up, Passive: n.Passive, Draining: n.Draining,
			Since: stampOf(n.since), Zone: n.Zone(),
		}
		if !n.up {
			b.attend("node-"+id(n.ID), Attention{
				Level: "bad", Node: id(n.ID), Text: "Data node " + n.TCPAddr + " does not answer",
				Do: "Look whether influxd runs there and whether its port can be reached. What it misses is kept for it, " +
					"or repaired when it is back.",
			})
		}
		if b.admin() {
			b.addDetails(n, &out)
		}
		b.state.Nodes[id(n.ID)] = out
	}
}

// addDetails adds what administrators see of a data node.
func (b *builder) addDetails(n nodeReport, out *Node) {
	out.Labels = n.Labels
	r := n.report
	if r == nil {
		out.Error = n.err.Error()
		return
	}
	out.Version, out.Started = r.Version, stamp(r.Started)
	out.Bytes, out.Shards, out.Checked, out.Hints = r.ShardBytes, r.ShardCount, stamp(r.Checked), n.hints
	for _, l := range r.Load {
		load := loadOf(l)
		out.Load = &load
	}
	for _, d := range r.Disks {
		disk := Disk{Path: d.Path, Free: roundBytes(d.Free, d.Total), Size: d.Total}
		disk.Low = float64(d.Free) < diskLow*float64(d.Total)
		out.Disks = append(out.Disks, disk)
		if disk.Low {
			b.attend("disk-"+id(n.ID)+d.Path, Attention{
				Level: "bad", Node: id(n.ID),
				Text: fmt.Sprintf("Less than 5 %% of the disk of data node %s is free (%s)", n.TCPAddr, d.Path),
				Do: "Make space, or add a data node and move shards to it with influxd-ctl rebalance. Repairs pause, " +
					"and writes are refused when it is full.",
			})
		}
	}
	for _, h := range n.hints {
		if h.Oldest != nil && b.at.Sub(*h.Oldest) > hintsOld {
			b.attend("hints-"+id(n.ID)+"-"+h.For, Attention{
				Level: "warn", Node: id(n.ID),
				Text: fmt.Sprintf("Data node %s has kept writes for node %s for more than an hour", n.TCPAddr, h.For),
				Do: "Bring that node back, or replace it. What is older than [hinted-handoff] max-age is dropped, and " +
					"repaired later.",
			})
		}
	}
}

// roundBytes rounds to a thousandth of the whole, so that free space does not change all the time.
func roundBytes(n, whole uint64) uint64 {
	step := max(whole/1000, 1)
	return n / step * step
}

// addShards adds the shards of databases that the user may read.
func (b *builder) addShards() {
	away := make(map[uint64]bool)
	written, unchecked := make(map[uint64]bool), make(map[uint64]bool)
	for _, n := range b.nodes {
		away[n.ID] = !n.up
		if n.report != nil {
			for _, s := range n.report.Written {
				written[s] = true
			}
			for _, s := range n.report.Unchecked {
				unchecked[s] = true
			}
		}
	}
	found := make(map[uint64]int, len(b.entropy.Shards))
	for i, s := range b.entropy.Shards {
		found[s.ID] = i
	}
	queued, running := setOf(b.entropy.Queued), setOf(b.entropy.Processing)
	readable, state := make(map[string]bool), b.deps.State()
	for shardID, sh := range b.live {
		may, ok := readable[sh.Database]
		if !ok {
			may = state.MaySee(b.user, sh.Database)
			readable[sh.Database] = may
		}
		if !may {
			continue
		}
		out := Shard{
			Database: sh.Database, Policy: sh.RetentionPolicy,
			Start: time.Unix(0, sh.Start).UTC(), End: time.Unix(0, sh.End).UTC(),
			Expires: stamp(sh.Expires), Owners: make([]string, len(sh.Owners)), Status: "equal",
			Writing: written[shardID],
		}
		anyAway := false
		for i, o := range sh.Owners {
			out.Owners[i] = id(o)
			anyAway = anyAway || away[o]
		}
		at, differs := found[shardID]
		switch {
		case differs:
			out.Status = string(b.entropy.Shards[at].Status)
			if b.admin() { // a message may name series
				out.Message = b.entropy.Shards[at].Message
			}
		case len(sh.Owners) < 2:
			out.Status = "single"
		case anyAway:
			out.Status = "away"
		case unchecked[shardID] || !b.enabled:
			out.Status = "unchecked"
		}
		switch {
		case running[shardID]:
			out.Repair = "running"
		case queued[shardID]:
			out.Repair = "queued"
		}
		b.state.Shards[id(shardID)] = out
		if differs && b.admin() {
			b.attendShard(sh, out)
		}
	}
}

// attendShard adds a shard that no repair helps.
func (b *builder) attendShard(sh cluster.Shard, s Shard) {
	name := fmt.Sprintf("Shard %d of %s.%s", sh.ID, sh.Database, sh.RetentionPolicy)
	switch entropy.Status(s.Status) {
	case entropy.Conflict:
		b.attend("shard-"+id(sh.ID), Attention{
			Level: "bad", Shard: id(sh.ID), Text: name + " has a field with different types on two owners",
			Do: "Choose the type: influxd-ctl entropy resolve. Values of the other type are set aside.",
		})
	case entropy.Corrupt:
		if len(sh.Owners) == 1 {
			b.attend("shard-"+id(sh.ID), Attention{
				Level: "bad", Shard: id(sh.ID), Text: name + " has a damaged file, and no other copy",
				Do: "Restore it from a backup, or remove the file that the message names, and check the shard.",
			})
		}
	}
}

func setOf(ids []uint64) map[uint64]bool {
	out := make(map[uint64]bool, len(ids))
	for _, i := range ids {
		out[i] = true
	}
	return out
}

// addRepairs adds what waits, runs and ended.
func (b *builder) addRepairs() {
	b.state.Repairs = make(map[string]Repair, len(b.repairs.Repairs))
	for _, r := range b.repairs.Repairs {
		out := Repair{
			ID:    r.RepairRecord.ID(),
			Shard: id(r.ShardID), Database: r.Database, Policy: r.RetentionPolicy, Node: r.Node, State: string(r.State),
			Owners: append([]string{}, r.RepairRecord.Owners...),
			Added:  stampOf(r.Added), Started: stampOf(r.Started), Ended: stampOf(r.Ended),
			Attempts: r.Attempts, Rounds: r.Rounds, Progress: rounded(r.Progress()), Points: r.Points,
			Received: r.BytesRx, Sent: r.BytesTx, Rate: rounded(r.Rate), Left: rounded(r.ETA.Seconds()),
			Conflicts: r.Conflicts, Refused: r.Refused, Error: r.Error,
		}
		key := r.Node + "/" + out.Shard
		if !r.Ended.IsZero() {
			key += "/" + strconv.FormatInt(r.Ended.UnixNano(), 10)
		}
		b.state.Repairs[key] = out
		if r.State == entropy.Failed && r.Attempts >= repairFails && r.Ended.IsZero() {
			b.attend("repair-"+out.Shard, Attention{
				Level: "warn", Shard: out.Shard,
				Text: fmt.Sprintf("The repair of shard %s has failed %d times: %s", out.Shard, r.Attempts, r.Error),
				Do:   "It is tried again by itself. Look at the error: most often an owner is away or has no space.",
			})
		}
	}
	b.state.Settings = make(map[string]Setting)
	for addr, rate := range b.repairs.MaxRates {
		b.state.Settings[addr] = Setting{Paused: slices.Contains(b.repairs.Paused, addr), MaxRate: rate}
	}
	if len(b.repairs.Paused) > 0 {
		b.attend("paused", Attention{
			Level: "warn", Text: "Repairs are paused on " + strings.Join(b.repairs.Paused, ", "),
			Do: "Resume them in the view Repairs, or with influxd-ctl entropy resume.",
		})
	}
}

// addWork adds the copies and the queries that run.
func (b *builder) addWork() {
	b.state.Copies, b.state.Queries = make(map[string]Copy), make(map[string]Query)
	for _, n := range b.nodes {
		if n.report == nil {
			continue
		}
		for _, c := range n.report.Copies {
			b.state.Copies[id(n.ID)+"-"+id(c.ShardId)] = Copy{
				Shard: id(c.ShardId), From: c.Source, To: n.TCPAddr, Bytes: c.Current, Total: c.Total,
				Since: time.Unix(0, c.Started).UTC(), Policy: c.Database + "." + c.RetentionPolicy,
			}
		}
		for _, q := range n.report.Queries {
			b.state.Queries[queryKey(n.ID, q.Id)] = Query{
				Node: id(n.ID), ID: id(q.Id), Database: string(q.Database), Text: string(q.Text),
				Since: time.Unix(0, q.Started).UTC(), Status: q.Status,
			}
		}
	}
}

// addMeta adds the meta nodes.
func (b *builder) addMeta() {
	b.state.Meta = make(map[string]Meta, len(b.meta))
	last, leader := uint64(0), false
	for _, a := range b.meta {
		last = max(last, a.Value.Commit)
		leader = leader || a.Err == nil && a.Value.State == "leader"
	}
	for _, a := range b.meta {
		out := Meta{Address: a.Node.HTTPAddr, Raft: a.Node.TCPAddr, Up: a.Err == nil}
		if a.Err != nil {
			out.Error = a.Err.Error()
			b.attend("meta-"+a.Node.HTTPAddr, Attention{
				Level: "warn", Text: "Meta node " + a.Node.HTTPAddr + " does not answer",
				Do: "Look whether influxd-meta runs there. Without a majority of the meta nodes nothing of " +
					"the metadata can change.",
			})
		} else {
			r := a.Value
			out.Version, out.Started, out.State = r.Version, stampOf(r.Started), r.State
			out.Term, out.Applied, out.Lag = r.Term, r.Applied, last-min(last, r.Applied)
		}
		b.state.Meta[id(a.Node.ID)] = out
	}
	if !leader {
		b.attend("leader", Attention{
			Level: "bad", Text: "The meta nodes have no leader",
			Do: "Bring back a majority of them. Until then no database, user or shard can be made, " +
				"and writes that need a new shard fail.",
		})
	}
}

// addPolicies adds what each policy has on which node.
func (b *builder) addPolicies() {
	b.state.Policies = make(map[string]Policy)
	for _, sh := range b.live {
		key := sh.Database + "." + sh.RetentionPolicy
		p, ok := b.state.Policies[key]
		if !ok {
			p = Policy{Database: sh.Database, Name: sh.RetentionPolicy, Replicas: sh.ReplicaN,
				Owned: make(map[string]int)}
		}
		p.Shards++
		if len(sh.Owners) < sh.ReplicaN {
			p.TooFew++
		}
		for _, o := range sh.Owners {
			p.Owned[id(o)]++
		}
		b.state.Policies[key] = p
	}
}

// addDeletes adds the deletes that wait for nodes. Several nodes keep one, each for all that missed it.
func (b *builder) addDeletes() {
	b.state.Deletes = make(map[string]Delete)
	for _, n := range b.nodes {
		b.state.Summary.MoreDeletes = b.state.Summary.MoreDeletes || n.report.GetMoreDeletes()
		for _, w := range n.report.GetDeletes() {
			key := w.Id
			if key == "" { // of a node without versions
				key = id(n.ID) + "-" + strconv.FormatInt(w.Since, 10)
			}
			d, known := b.state.Deletes[key]
			if !known {
				d = Delete{Database: string(w.Database), Text: string(w.Text), Since: stamp(w.Since)}
			} else if since := stamp(w.Since); since != nil && (d.Since == nil || since.Before(*d.Since)) {
				d.Since = since
			}
			d.For, d.Kept = with(d.For, id(w.Node)), with(d.Kept, id(n.ID))
			b.state.Deletes[key] = d
		}
	}
	b.state.Summary.Deletes = len(b.state.Deletes)
}

// with is a sorted list with one more value, unless that is there.
func with(list []string, value string) []string {
	if !slices.Contains(list, value) {
		list = append(list, value)
		slices.Sort(list)
	}
	return list
}

// summarize counts, and says it in one sentence.
func (b *builder) summarize() {
	s := &b.state.Summary
	s.Node, s.Kind, s.Version, s.Enabled = b.deps.Address, b.deps.Kind, b.deps.Version, b.enabled
	counts := map[string]*int{
		"equal": &s.Agree, "diff": &s.Differ, "missing": &s.Missing, "conflict": &s.Conflict, "corrupt": &s.Corrupt,
		"unchecked": &s.Unchecked, "away": &s.Away, "single": &s.Single,
	}
	for _, sh := range b.state.Shards {
		if n := counts[sh.Status]; n != nil {
			*n++
		}
		if sh.Status != "single" && len(sh.Owners) > 1 {
			s.Shards++
		}
		if sh.Writing {
			s.Writing++
		}
		switch sh.Repair {
		case "queued":
			s.Queued++
		case "running":
			s.Repairing++
		}
	}
	s.Checked = b.checked()
	s.Level, s.Sentence = b.level(), b.sentence()
}

// checked is the oldest end of a full check at all nodes, nil while a node has not ended one or does not say.
func (b *builder) checked() *time.Time {
	oldest := int64(0)
	for _, n := range b.nodes {
		switch {
		case n.report == nil || n.report.Checked == 0:
			if n.up {
				return nil
			}
		case oldest == 0 || n.report.Checked < oldest:
			oldest = n.report.Checked
		}
	}
	return stamp(oldest)
}

func (b *builder) level() string {
	s := b.state.Summary
	worst := ""
	for a := range maps.Values(b.state.Attention) {
		if worst != "bad" {
			worst = a.Level
		}
	}
	switch {
	case worst == "bad" || s.Conflict+s.Corrupt > 0:
		return "bad"
	case worst == "warn" || s.Differ+s.Missing > 0 || !s.Enabled:
		return "warn"
	case s.Repairing+s.Queued+s.Unchecked+s.Away > 0:
		return "busy"
	}
	return "good"
}

// sentence says how far the replicas agree.
func (b *builder) sentence() string {
	s := b.state.Summary
	switch {
	case !s.Enabled:
		return "Anti-entropy is off: nothing compares the replicas"
	case s.Shards == 0 && s.Single > 0:
		return fmt.Sprintf("Every shard has one copy: %s with nothing to compare", plural(s.Single, "shard"))
	case s.Shards == 0:
		return "There is no shard yet: write some points"
	}
	var parts []string
	if s.Agree == s.Shards {
		if s.Shards == 1 {
			parts = append(parts, "The replicas of the one shard agree")
		} else {
			parts = append(parts, fmt.Sprintf("All %s shards agree", thousands(s.Shards)))
		}
	} else if s.Agree > 0 || s.Away+s.Unchecked < s.Shards {
		parts = append(parts, fmt.Sprintf("%s of %s agree", thousands(s.Agree), plural(s.Shards, "shard")))
	}
	for _, p := range []struct {
		n         int
		one, many string
	}{
		{s.Differ, "differs", "differ"}, {s.Missing, "lacks a copy", "lack a copy"},
		{s.Conflict, "is in conflict", "are in conflict"}, {s.Corrupt, "is damaged", "are damaged"},
		{s.Away, "has an owner away", "have an owner away"}, {s.Unchecked, "is not checked yet", "are not checked yet"},
	} {
		switch {
		case p.n == 1:
			parts = append(parts, "1 "+p.one)
		case p.n > 1:
			parts = append(parts, thousands(p.n)+" "+p.many)
		}
	}
	if s.Agree == 0 && s.Away+s.Unchecked == s.Shards { // nothing is known to be wrong
		parts[0] = strings.Replace(parts[0], " ", fmt.Sprintf(" of %s ", plural(s.Shards, "shard")), 1)
	}
	return strings.Join(parts, "; ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// thousands writes 1204 as 1,204.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
