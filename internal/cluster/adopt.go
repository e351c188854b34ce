package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/influxdata/influxdb/services/meta"
)

// AdoptServer makes a data node that runs on the folders of a plain server a member, with all that the server has: its
// databases, policies, shard groups, users, continuous queries and subscriptions. The node owns the server's shards.
// The result is an Adopted.
type AdoptServer struct {
	Node   CreateDataNode `json:"node"`
	Server []byte         `json:"server"` // a meta.Data, as in the server's meta.db
	Merge  bool           `json:"merge"`
	Moves  []ShardMove    `json:"moves"` // as planned: the node is prepared for these
}

// ShardMove is a folder of a shard that gets another name, because the cluster has the ID already.
type ShardMove struct {
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention-policy"`
	From            uint64 `json:"from"`
	To              uint64 `json:"to"` // 0 when the server knows no such shard: the folder is set aside
}

// Adoption is what adopting a server does to a cluster.
type Adoption struct {
	Policies  []AdoptedPolicy `json:"policies"`
	Users     []string        `json:"users"`
	KeptUsers []string        `json:"kept-users"` // that the cluster has already: they stay as they are
	Queries   []string        `json:"continuous-queries"`
	Kept      []string        `json:"kept"` // other things that the cluster has already, each a phrase
	Moves     []ShardMove     `json:"moves"`
	Merged    []uint64        `json:"merged"` // shards of the cluster that get the node as another owner
}

// AdoptedPolicy is a retention policy of the server.
type AdoptedPolicy struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Replicas int    `json:"replicas"`
	Shards   int    `json:"shards"` // of the server
	Merged   int    `json:"merged"` // of these, shards that the cluster has too
}

// Adopted is the result of AdoptServer.
type Adopted struct {
	Node     Node     `json:"node"`
	Adoption Adoption `json:"adoption"`
}

// EndMerges ends the merges of a data node: the other owners remember by themselves that their copies differ from its.
type EndMerges struct {
	Node uint64 `json:"node"`
}

func (o EndMerges) apply(s *State) (any, error) {
	s.endMerges(o.Node)
	return nil, nil
}

// errPlanChanged is for a cluster that has changed since the adoption was planned.
var errPlanChanged = errors.New("the cluster has changed since the adoption was planned: run the command again")

func (o AdoptServer) apply(s *State) (any, error) {
	server, err := DecodeServer(o.Server)
	if err != nil {
		return nil, err
	}
	result, err := o.Node.apply(s)
	if err != nil {
		return nil, err
	}
	n := result.(Node)
	planned, err := s.adoptServer(server, n.ID, o.Merge)
	if err != nil {
		return nil, err
	}
	renames := slices.DeleteFunc(slices.Clone(o.Moves), func(m ShardMove) bool { return m.To == 0 })
	if !slices.Equal(planned.Moves, renames) {
		return nil, errPlanChanged
	}
	return Adopted{Node: n, Adoption: *planned}, nil
}

// DecodeServer reads the metadata of a plain server, as its meta.db has it, and refuses what no server writes.
func DecodeServer(b []byte) (*meta.Data, error) {
	d := &meta.Data{}
	if err := d.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("the metadata of the server cannot be read: %w", err)
	}
	shards, groups := make(map[uint64]bool), make(map[uint64]bool)
	for _, db := range d.Databases {
		if err := errors.Join(checkName(db.Name, meta.ErrDatabaseNameRequired),
			checkDatabaseFolder(db.Name)); err != nil {
			return nil, fmt.Errorf("database %q: %w", db.Name, err)
		}
		for _, rp := range db.RetentionPolicies {
			err := errors.Join(checkName(rp.Name, meta.ErrRetentionPolicyNameRequired), checkPolicyFolder(rp.Name))
			if err != nil {
				return nil, fmt.Errorf("retention policy %q of %q: %w", rp.Name, db.Name, err)
			}
			for _, g := range rp.ShardGroups {
				if g.ID == 0 || groups[g.ID] || !g.StartTime.Before(g.EndTime) {
					return nil, fmt.Errorf("the metadata of the server is damaged: shard group %d of %s.%s", g.ID,
						db.Name, rp.Name)
				}
				groups[g.ID] = true
				for _, sh := range g.Shards {
					if sh.ID == 0 || shards[sh.ID] {
						return nil, fmt.Errorf("the metadata of the server is damaged: shard %d of %s.%s", sh.ID,
							db.Name, rp.Name)
					}
					shards[sh.ID] = true
				}
			}
		}
	}
	return d, nil
}

// PlanAdoption returns what adopting a server would do, and changes nothing. The error lists all that is in the way.
func (s *State) PlanAdoption(server *meta.Data, merge bool) (*Adoption, error) {
	next := s.Clone()
	n, err := next.putNode(&next.DataNodes, Node{TCPAddr: "planned"})
	if err != nil {
		return nil, err
	}
	return next.adoptServer(server, n.ID, merge)
}

// internalDB is the database of every server's own statistics. It is always merged: no two servers have a series in
// common, as their names are tags.
const internalDB = "_internal"

// adopter adds a server to a state.
type adopter struct {
	*State
	node      uint64
	merge     bool
	out       Adoption
	inTheWay  []string
	taken     uint64 // shard IDs up to it may be taken
	takenG    uint64 // the same of groups
	lastShard uint64
	lastGroup uint64
}

func (s *State) adoptServer(server *meta.Data, node uint64, merge bool) (*Adoption, error) {
	a := &adopter{State: s, node: node, merge: merge, taken: s.Data.MaxShardID, takenG: s.Data.MaxShardGroupID}
	a.lastShard = max(a.taken, server.MaxShardID)
	a.lastGroup = max(a.takenG, server.MaxShardGroupID)
	for _, db := range server.Databases { // a damaged file may have greater ones
		for _, rp := range db.RetentionPolicies {
			for _, g := range rp.ShardGroups {
				a.lastGroup = max(a.lastGroup, g.ID)
				for _, sh := range g.Shards {
					a.lastShard = max(a.lastShard, sh.ID)
				}
			}
		}
	}
	for i := range server.Databases {
		if err := a.database(&server.Databases[i]); err != nil {
			return nil, err
		}
	}
	if len(a.inTheWay) > 0 {
		return nil, errors.New("nothing was changed: " + strings.Join(a.inTheWay, "; "))
	}
	s.Data.MaxShardID, s.Data.MaxShardGroupID = a.lastShard, a.lastGroup
	s.beginMerges(node, a.out.Merged)
	return &a.out, a.users(server.Users)
}

func (a *adopter) refuse(format string, args ...any) {
	a.inTheWay = append(a.inTheWay, fmt.Sprintf(format, args...))
}

func (a *adopter) database(from *meta.DatabaseInfo) error {
	db := a.Data.Database(from.Name)
	if db != nil && !a.merge && from.Name != internalDB {
		a.refuse("the cluster has a database %q already, and -merge gives its shards the server's data, too", from.Name)
		return nil
	}
	if db == nil {
		a.Data.Databases = append(a.Data.Databases, meta.DatabaseInfo{
			Name: from.Name, DefaultRetentionPolicy: from.DefaultRetentionPolicy,
		})
		db = a.Data.Database(from.Name)
	}
	for i := range from.RetentionPolicies {
		a.policy(db, &from.RetentionPolicies[i])
	}
	for _, q := range from.ContinuousQueries {
		same := func(c meta.ContinuousQueryInfo) bool { return c.Name == q.Name }
		if slices.ContainsFunc(db.ContinuousQueries, same) {
			a.out.Kept = append(a.out.Kept, fmt.Sprintf("continuous query %q of %q", q.Name, db.Name))
			continue
		}
		db.ContinuousQueries = append(db.ContinuousQueries, q)
		a.out.Queries = append(a.out.Queries, db.Name+"."+q.Name)
	}
	return nil
}

func (a *adopter) policy(db *meta.DatabaseInfo, from *meta.RetentionPolicyInfo) {
	rp := db.RetentionPolicy(from.Name)
	if rp == nil {
		db.RetentionPolicies = append(db.RetentionPolicies, meta.RetentionPolicyInfo{
			Name: from.Name, ReplicaN: max(1, from.ReplicaN), Duration: from.Duration,
			ShardGroupDuration: from.ShardGroupDuration, FutureWriteLimit: from.FutureWriteLimit,
			PastWriteLimit: from.PastWriteLimit,
		})
		rp = db.RetentionPolicy(from.Name)
	} else if rp.Duration != from.Duration || rp.ShardGroupDuration != from.ShardGroupDuration {
		a.out.Kept = append(a.out.Kept, fmt.Sprintf("the durations of retention policy %q of %q", rp.Name, db.Name))
	}
	for _, sub := range from.Subscriptions {
		if slices.ContainsFunc(rp.Subscriptions, func(s meta.SubscriptionInfo) bool { return s.Name == sub.Name }) {
			a.out.Kept = append(a.out.Kept, fmt.Sprintf("subscription %q of %s.%s", sub.Name, db.Name, rp.Name))
			continue
		}
		rp.Subscriptions = append(rp.Subscriptions, sub)
	}
	adopted := AdoptedPolicy{Database: db.Name, Name: rp.Name}
	for i := range from.ShardGroups {
		g := &from.ShardGroups[i]
		if g.Deleted() {
			continue
		}
		adopted.Shards += len(g.Shards)
		adopted.Merged += a.group(db.Name, rp, g)
	}
	sort.Sort(meta.ShardGroupInfos(rp.ShardGroups))
	adopted.Replicas = rp.ReplicaN
	a.out.Policies = append(a.out.Policies, adopted)
}

// group returns how many shards are in the cluster already.
func (a *adopter) group(db string, rp *meta.RetentionPolicyInfo, from *meta.ShardGroupInfo) (merged int) {
	var overlap []*meta.ShardGroupInfo
	for i := range rp.ShardGroups {
		if g := &rp.ShardGroups[i]; !g.Deleted() && cut(*g).Overlaps(from.StartTime, cut(*from).EndTime.Add(-1)) {
			overlap = append(overlap, g)
		}
	}
	same := len(overlap) == 1 && overlap[0].StartTime.Equal(from.StartTime) && overlap[0].EndTime.Equal(from.EndTime) &&
		!overlap[0].Truncated() && !from.Truncated() && len(overlap[0].Shards) == 1 && len(from.Shards) == 1
	switch {
	case len(overlap) > 0 && same:
		a.share(db, rp, &overlap[0].Shards[0], from.Shards[0].ID)
		return 1
	case len(overlap) > 0 && db != internalDB:
		a.refuse("the shard group of %s.%s from %s to %s cannot be merged: the cluster has %s there",
			db, rp.Name, from.StartTime.UTC().Format(time.RFC3339), from.EndTime.UTC().Format(time.RFC3339),
			groupsText(overlap))
		return 0
	}
	g := meta.ShardGroupInfo{
		ID: from.ID, StartTime: from.StartTime, EndTime: from.EndTime, TruncatedAt: from.TruncatedAt,
	}
	if g.ID <= a.takenG {
		a.lastGroup++
		g.ID = a.lastGroup
	}
	for _, sh := range from.Shards {
		id := sh.ID
		if id <= a.taken {
			a.lastShard++
			id = a.lastShard
			a.out.Moves = append(a.out.Moves, ShardMove{Database: db, RetentionPolicy: rp.Name, From: sh.ID, To: id})
		}
		g.Shards = append(g.Shards, meta.ShardInfo{ID: id, Owners: []meta.ShardOwner{{NodeID: a.node}}})
	}
	rp.ShardGroups = append(rp.ShardGroups, g)
	return 0
}

func groupsText(groups []*meta.ShardGroupInfo) string {
	out := make([]string, len(groups))
	for i, g := range groups {
		shards := "one shard"
		if len(g.Shards) != 1 {
			shards = fmt.Sprintf("%d shards", len(g.Shards))
		}
		out[i] = fmt.Sprintf("%s from %s to %s", shards, g.StartTime.UTC().Format(time.RFC3339),
			cut(*g).EndTime.UTC().Format(time.RFC3339))
	}
	return strings.Join(out, ", ")
}

// share makes the node another owner of a shard of the cluster.
func (a *adopter) share(db string, rp *meta.RetentionPolicyInfo, sh *meta.ShardInfo, from uint64) {
	sh.Owners = append(sh.Owners, meta.ShardOwner{NodeID: a.node})
	sort.Slice(sh.Owners, func(i, j int) bool { return sh.Owners[i].NodeID < sh.Owners[j].NodeID })
	rp.ReplicaN = max(rp.ReplicaN, len(sh.Owners))
	a.out.Merged = append(a.out.Merged, sh.ID)
	if from != sh.ID {
		a.out.Moves = append(a.out.Moves, ShardMove{Database: db, RetentionPolicy: rp.Name, From: from, To: sh.ID})
	}
}

func (a *adopter) users(users []meta.UserInfo) error {
	for _, u := range users {
		if a.Data.User(u.Name) != nil {
			a.out.KeptUsers = append(a.out.KeptUsers, u.Name)
			continue
		}
		if err := a.Data.CreateUser(u.Name, u.Hash, u.Admin); err != nil {
			return fmt.Errorf("user %q: %w", u.Name, err)
		}
		for db, p := range u.Privileges {
			if a.Data.Database(db) == nil {
				continue // it was dropped
			}
			if err := a.Data.SetPrivilege(u.Name, db, p); err != nil {
				return fmt.Errorf("user %q: %w", u.Name, err)
			}
		}
		a.out.Users = append(a.out.Users, u.Name)
	}
	return nil
}
