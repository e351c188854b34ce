package operator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/backup"
	"concord/internal/backup/portable"
	"concord/internal/cluster"
	"concord/internal/meta/server"
)

const (
	maxTarget  = 16 << 20    // bytes of POST /restore/begin, which has all metadata: more than 100,000 shards
	targetTime = time.Minute // for it to come
)

// restores begins restores: it makes databases, policies and shard groups for what is to be restored.
type restores struct {
	state   func() *cluster.State
	execute func(cluster.Op) (any, error)
	begins  sync.Mutex // held while one restore begins: its metadata is in memory several times
}

func (b *restores) routes() []server.Route {
	return []server.Route{{Pattern: "POST /restore/begin", OnLeader: true, Handler: b.serveBegin}}
}

// serveBegin begins one restore at a time.
func (b *restores) serveBegin(w http.ResponseWriter, r *http.Request) {
	if !b.begins.TryLock() {
		server.Reply(w, nil, errors.New("another restore is just beginning: try again"))
		return
	}
	defer b.begins.Unlock()
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(targetTime))
	var t backup.Target
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTarget)).Decode(&t)
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		err = fmt.Errorf("the metadata of the backup is larger than %d bytes", large.Limit)
	}
	control.SetReadDeadline(time.Time{})
	if err != nil {
		server.Reply(w, nil, fmt.Errorf("restore: %w", err))
		return
	}
	out, err := b.begin(t)
	server.Reply(w, out, err)
}

// begin makes databases, policies and shard groups for what is to be restored, and returns where each shard goes. It
// checks everything first.
func (b *restores) begin(t backup.Target) (any, error) {
	data, err := portable.DecodeMeta(t.Meta)
	if err != nil {
		return nil, err
	}
	if t.NewShard != 0 {
		return b.intoShard(t)
	}
	one := &restoration{state: b.state, execute: b.execute, target: t, data: data, with: map[uint64]bool{}}
	for _, id := range t.Shards {
		one.with[id] = true
	}
	if err := one.check(); err != nil {
		return nil, err
	}
	return one.carryOut()
}

// intoShard maps one shard of the backup to one that is there.
func (b *restores) intoShard(t backup.Target) (any, error) {
	sh, ok := b.state().Shard(t.NewShard)
	if !ok {
		return nil, fmt.Errorf("shard %d does not exist", t.NewShard)
	}
	if t.Shard == 0 {
		return nil, errors.New("-newshard needs -shard")
	}
	return []backup.Mapping{newMapping(b.state(), t.Shard, sh)}, nil
}

// newMapping maps a shard of the backup to one that is there.
func newMapping(st *cluster.State, old uint64, sh cluster.Shard) backup.Mapping {
	m := backup.Mapping{Shard: old, NewShard: sh.ID, Database: sh.Database, Policy: sh.RetentionPolicy}
	for _, o := range sh.Owners {
		if n, ok := st.DataNode(o); ok {
			m.Owners = append(m.Owners, n.TCPAddr)
		}
	}
	return m
}

// restoration is one restore of metadata.
type restoration struct {
	state    func() *cluster.State
	execute  func(cluster.Op) (any, error)
	target   backup.Target
	data     *emeta.Data
	with     map[uint64]bool // shards of the backup that have a file
	duration *time.Duration
	queries  map[string][]emeta.ContinuousQueryInfo // by database that the restore made
	out      []backup.Mapping
}

// each calls fn for every policy that is to be restored, with its new names.
func (p *restoration) each(
	fn func(old emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error,
) error {
	t := p.target
	for _, db := range p.data.Databases {
		if t.Database != "" && db.Name != t.Database {
			continue
		}
		for _, rp := range db.RetentionPolicies {
			if t.Policy != "" && rp.Name != t.Policy {
				continue
			}
			if t.Shard != 0 && !hasShard(rp, t.Shard) {
				continue
			}
			if err := fn(db, rp, cmp.Or(t.NewDB, db.Name), cmp.Or(t.NewPolicy, rp.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func hasShard(rp emeta.RetentionPolicyInfo, id uint64) bool {
	for _, g := range rp.ShardGroups {
		for _, sh := range g.Shards {
			if sh.ID == id {
				return true
			}
		}
	}
	return false
}

// groups are the policy's groups with a shard that has a file.
func (p *restoration) groups(rp emeta.RetentionPolicyInfo) (out []emeta.ShardGroupInfo) {
	if p.target.MetaOnly {
		return nil
	}
	for _, g := range rp.ShardGroups {
		if !g.Deleted() && slices.ContainsFunc(g.Shards, func(sh emeta.ShardInfo) bool {
			return p.with[sh.ID] && (p.target.Shard == 0 || p.target.Shard == sh.ID)
		}) {
			out = append(out, g)
		}
	}
	return out
}

// check refuses what cannot be restored, and changes nothing.
func (p *restoration) check() error {
	t := p.target
	if t.NewDB != "" && t.Database == "" {
		return errors.New("-newdb needs -db")
	} else if t.NewPolicy != "" && t.Policy == "" {
		return errors.New("-newrp needs -rp")
	}
	if t.Duration != "" {
		d, err := time.ParseDuration(t.Duration)
		if err != nil || d < 0 || d > 0 && d < emeta.MinRetentionPolicyDuration {
			return errors.New("-newduration: must be 0 or a duration of at least 1h")
		}
		p.duration = &d
	}
	found := false
	st := p.state()
	err := p.each(func(_ emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error {
		found = true
		have, _ := st.Data.RetentionPolicy(db, policy)
		if have == nil || len(p.groups(rp)) == 0 {
			return nil
		}
		for _, g := range have.ShardGroups {
			if !g.Deleted() {
				return fmt.Errorf("%s.%s has data already: "+
					"drop it first, or restore into another name with -newdb or -newrp", db, policy)
			}
		}
		return nil
	})
	if err == nil && !found && (t.Database != "" || t.Policy != "" || t.Shard != 0) {
		err = errors.New("the backup does not have what -db, -rp and -shard ask for")
	}
	return err
}

// carryOut makes what is to be restored.
func (p *restoration) carryOut() ([]backup.Mapping, error) {
	p.queries = map[string][]emeta.ContinuousQueryInfo{}
	if err := p.each(p.policy); err != nil {
		return nil, err
	}
	for db, queries := range p.queries {
		for _, cq := range queries {
			if _, err := p.execute(cluster.CreateContinuousQuery{Database: db, Name: cq.Name, Query: cq.Query}); err != nil {
				return nil, fmt.Errorf("restore continuous query %s of %s: %w", cq.Name, db, err)
			}
		}
	}
	if t := p.target; t.Database == "" && t.Policy == "" && t.Shard == 0 {
		if err := p.users(); err != nil {
			return nil, err
		}
	}
	return p.out, nil
}

// policy makes a policy and the groups of its shards.
func (p *restoration) policy(old emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error {
	st := p.state()
	replicas := cmp.Or(p.target.Replicas, min(rp.ReplicaN, max(1, len(st.ActiveDataNodes()))))
	duration := rp.Duration
	if p.duration != nil {
		duration = *p.duration
	}
	spec := emeta.RetentionPolicySpec{
		Name: policy, ReplicaN: &replicas, Duration: &duration, ShardGroupDuration: rp.ShardGroupDuration,
	}
	isDefault := old.DefaultRetentionPolicy == rp.Name
	have, _ := st.Data.RetentionPolicy(db, policy)
	var err error
	switch {
	case st.Data.Database(db) == nil:
		_, err = p.execute(cluster.CreateDatabase{Name: db, Spec: &spec})
		p.queries[db] = nil
	case have == nil:
		_, err = p.execute(cluster.CreateRetentionPolicy{Database: db, Spec: spec, Default: isDefault})
	case p.target.Overwrite:
		update := emeta.RetentionPolicyUpdate{
			ReplicaN: &replicas, Duration: &duration, ShardGroupDuration: &rp.ShardGroupDuration,
		}
		_, err = p.execute(cluster.UpdateRetentionPolicy{
			Database: db, Name: policy, Default: isDefault, Update: update,
		})
	}
	if err != nil {
		return fmt.Errorf("restore policy %s.%s: %w", db, policy, err)
	}
	// They go with the default policy, which need not be the first one.
	if _, made := p.queries[db]; made && isDefault {
		p.queries[db] = old.ContinuousQueries
	}
	for _, sub := range rp.Subscriptions {
		_, err := p.execute(cluster.CreateSubscription{
			Database: db, RetentionPolicy: policy, Name: sub.Name, Mode: sub.Mode, Destinations: sub.Destinations,
		})
		if err != nil && !errors.Is(err, emeta.ErrSubscriptionExists) {
			return fmt.Errorf("restore subscription %s of %s.%s: %w", sub.Name, db, policy, err)
		}
	}
	return p.shards(rp, db, policy)
}

// shards makes the shard groups of a policy, and maps their shards.
func (p *restoration) shards(rp emeta.RetentionPolicyInfo, db, policy string) error {
	groups := p.groups(rp)
	if len(groups) == 0 {
		return nil
	}
	op := cluster.RestoreShardGroups{Database: db, RetentionPolicy: policy}
	for _, g := range groups {
		r := cluster.RestoredGroup{Start: g.StartTime, End: g.EndTime, Shards: len(g.Shards)}
		if g.Truncated() {
			r.TruncatedAt = g.TruncatedAt
		}
		op.Groups = append(op.Groups, r)
	}
	made, err := p.execute(op)
	if err != nil {
		return fmt.Errorf("restore the shards of %s.%s: %w", db, policy, err)
	}
	for i, ids := range made.([][]uint64) {
		for j, id := range ids {
			old := groups[i].Shards[j].ID
			if sh, ok := p.state().Shard(id); ok && p.with[old] && (p.target.Shard == 0 || p.target.Shard == old) {
				p.out = append(p.out, newMapping(p.state(), old, sh))
			}
		}
	}
	return nil
}

// users come with a whole backup.
func (p *restoration) users() error {
	st := p.state()
	for _, u := range p.data.Users {
		if st.Data.User(u.Name) == nil {
			if _, err := p.execute(cluster.CreateUser{Name: u.Name, Hash: u.Hash, Admin: u.Admin}); err != nil {
				return fmt.Errorf("restore user %s: %w", u.Name, err)
			}
		} else if !p.target.Overwrite {
			continue
		} else if _, err := p.execute(cluster.UpdateUser{Name: u.Name, Hash: u.Hash}); err != nil {
			return fmt.Errorf("restore user %s: %w", u.Name, err)
		}
		for db, priv := range u.Privileges {
			if p.state().Data.Database(db) == nil {
				continue
			}
			if _, err := p.execute(cluster.SetPrivilege{User: u.Name, Database: db, Privilege: priv}); err != nil {
				return fmt.Errorf("restore the privileges of user %s: %w", u.Name, err)
			}
		}
	}
	return nil
}
