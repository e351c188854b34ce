package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/meta"
)

// ErrNoDataNodes is why a cluster cannot place a shard.
var ErrNoDataNodes = errors.New("the cluster has no data nodes to hold a shard: run influxd-ctl add-data")

// ErrShardNotFound says of a missing shard what the engine says.
var ErrShardNotFound = errors.New("shard not found")

// CreateShardGroup makes sure that a shard group covers Time.
type CreateShardGroup struct {
	Database        string    `json:"database"`
	RetentionPolicy string    `json:"retention-policy"`
	Time            time.Time `json:"time"`
}

func (o CreateShardGroup) apply(s *State) (any, error) {
	return nil, s.createShardGroup(o.Database, o.RetentionPolicy, o.Time)
}

// createShardGroup lets the engine find the group's time range, then spreads its shards over the placeable data nodes:
// N nodes and X replicas give N/X shards (at least one) with X owners each, dealt round-robin from a node that the
// group's ID picks, so that N successive groups load every node equally.
func (s *State) createShardGroup(database, policy string, t time.Time) error {
	rpi, err := s.Data.RetentionPolicy(database, policy)
	if err != nil {
		return err
	} else if rpi == nil {
		return influxdb.ErrRetentionPolicyNotFound(policy)
	} else if err := models.CheckTime(t); err != nil {
		return err
	} else if rpi.ShardGroupByTimestamp(t) != nil {
		return nil
	}
	nodes := s.placeable()
	n := len(nodes)
	if n == 0 {
		return ErrNoDataNodes
	}
	if err := s.Data.CreateShardGroup(database, policy, t); err != nil {
		return err
	}
	g := rpi.ShardGroupByTimestamp(t)
	if g == nil {
		return fmt.Errorf("the engine made no shard group for %s", t.UTC().Format(time.RFC3339Nano))
	}
	// The engine bounds the end alone. A start before the range of int64 is encoded as one near its end.
	if first := time.Unix(0, models.MinNanoTime).UTC(); g.StartTime.Before(first) {
		g.StartTime = first
	}
	replicas := min(max(1, rpi.ReplicaN), n) // nodes may have gone since the policy was made
	for range n/replicas - 1 {
		s.Data.MaxShardID++
		g.Shards = append(g.Shards, meta.ShardInfo{ID: s.Data.MaxShardID})
	}
	load := map[uint64]int{}
	start := int(g.ID % uint64(n))
	for i := range g.Shards {
		g.Shards[i].Owners = deal(nodes, replicas, start+i*replicas, load)
	}
	return nil
}

// deal picks the owners of one shard out of nodes, which are placeable: nodes of zones that have no copy yet before
// others, then those with the fewest shards in load, then the nearest after start.
func deal(nodes []Node, replicas, start int, load map[uint64]int) []meta.ShardOwner {
	n := len(nodes)
	taken, zones := map[uint64]bool{}, map[string]bool{}
	owners := make([]meta.ShardOwner, 0, replicas)
	for range replicas {
		var best *Node
		for i := range n {
			c := &nodes[(start+i)%n]
			if taken[c.ID] {
				continue
			}
			if best == nil || zones[c.Zone()] != zones[best.Zone()] &&
				!zones[c.Zone()] ||
				zones[c.Zone()] == zones[best.Zone()] && load[c.ID] < load[best.ID] {
				best = c
			}
		}
		taken[best.ID] = true
		if zone := best.Zone(); zone != "" {
			zones[zone] = true
		}
		load[best.ID]++
		owners = append(owners, meta.ShardOwner{NodeID: best.ID})
	}
	sort.Slice(owners, func(a, b int) bool { return owners[a].NodeID < owners[b].NodeID })
	return owners
}

// DeleteShardGroup marks a shard group as deleted at Time.
type DeleteShardGroup struct {
	Database        string    `json:"database"`
	RetentionPolicy string    `json:"retention-policy"`
	ID              uint64    `json:"id"`
	Time            time.Time `json:"time"`
}

// ErrNotExpired is for a shard group that a node wants to delete before its time.
var ErrNotExpired = errors.New("the shard group has not expired by the clock of the meta nodes' leader: " +
	"compare the clocks with influxd-ctl show")

func (o DeleteShardGroup) at(s *State, now time.Time) (Op, error) {
	rpi, err := s.Data.RetentionPolicy(o.Database, o.RetentionPolicy)
	if err != nil || rpi == nil {
		return o, err // apply says what is missing
	}
	for i := range rpi.ShardGroups {
		g := &rpi.ShardGroups[i]
		if g.ID == o.ID && !g.Deleted() && (rpi.Duration == 0 || !g.EndTime.Add(rpi.Duration).Before(now)) {
			return nil, ErrNotExpired
		}
	}
	o.Time = now
	return o, nil
}

func (o DeleteShardGroup) apply(s *State) (any, error) {
	rpi, err := s.Data.RetentionPolicy(o.Database, o.RetentionPolicy)
	if err != nil {
		return nil, err
	} else if rpi == nil {
		return nil, influxdb.ErrRetentionPolicyNotFound(o.RetentionPolicy)
	}
	for i := range rpi.ShardGroups {
		if g := &rpi.ShardGroups[i]; g.ID == o.ID {
			if !g.Deleted() { // every data node runs retention: the first one counts
				g.DeletedAt = o.Time.UTC()
			}
			return nil, nil
		}
	}
	return nil, meta.ErrShardGroupNotFound
}

// PrecreateShardGroups creates the successor of every policy's last shard group
// that ends after From and before To.
type PrecreateShardGroups struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

func (o PrecreateShardGroups) at(_ *State, now time.Time) (Op, error) {
	o.From, o.To = now, now.Add(o.To.Sub(o.From))
	return o, nil
}

func (o PrecreateShardGroups) apply(s *State) (any, error) {
	var errs []error
	for _, db := range s.Data.Databases {
		for _, rp := range db.RetentionPolicies {
			if len(rp.ShardGroups) == 0 {
				continue
			}
			g := rp.ShardGroups[len(rp.ShardGroups)-1]
			if !g.Deleted() && g.EndTime.Before(o.To) && g.EndTime.After(o.From) {
				if err := s.createShardGroup(db.Name, rp.Name, g.EndTime.Add(1)); err != nil {
					errs = append(errs, fmt.Errorf("precreate shard group of %s.%s: %w", db.Name, rp.Name, err))
				}
			}
		}
	}
	return nil, errors.Join(errs...)
}

// PruneShardGroups forgets deleted groups that have no shards left and were
// deleted before Before.
type PruneShardGroups struct {
	Before time.Time `json:"before"`
}

func (o PruneShardGroups) at(_ *State, now time.Time) (Op, error) {
	o.Before = now.Add(meta.ShardGroupDeletedExpiration)
	return o, nil
}

func (o PruneShardGroups) apply(s *State) (any, error) {
	s.Data.PruneShardGroups(o.Before)
	return nil, nil
}

// TruncateShardGroups ends at Time every group that could take later points.
type TruncateShardGroups struct {
	Time time.Time `json:"time"`
}

func (o TruncateShardGroups) apply(s *State) (any, error) {
	s.Data.TruncateShardGroups(o.Time.UTC())
	return nil, nil
}

// RestoreShardGroups makes shard groups as a backup had them, with as many
// shards each: that number decides which shard a series is in. Groups that overlap one that
// is there are refused. The result is the new shard IDs, by group.
type RestoreShardGroups struct {
	Database        string          `json:"database"`
	RetentionPolicy string          `json:"retention-policy"`
	Groups          []RestoredGroup `json:"groups"`
}

// RestoredGroup is one group of a backup.
type RestoredGroup struct {
	Start  time.Time `json:"start"`
	End    time.Time `json:"end"` // exclusive
	Shards int       `json:"shards"`
	// TruncatedAt is zero unless the group was truncated: another group covers what is later.
	TruncatedAt time.Time `json:"truncated-at,omitzero"`
}

func (o RestoreShardGroups) apply(s *State) (any, error) {
	rpi, err := s.Data.RetentionPolicy(o.Database, o.RetentionPolicy)
	if err != nil {
		return nil, err
	} else if rpi == nil {
		return nil, influxdb.ErrRetentionPolicyNotFound(o.RetentionPolicy)
	}
	nodes := s.placeable()
	n := len(nodes)
	if n == 0 {
		return nil, ErrNoDataNodes
	}
	ids := make([][]uint64, 0, len(o.Groups))
	for _, want := range o.Groups {
		if want.Shards < 1 || want.Shards > maxGroupShards || !want.Start.Before(want.ends()) ||
			want.ends().After(want.End) {
			return nil, fmt.Errorf("a shard group with %d shards from %s to %s cannot be", want.Shards, want.Start,
				want.End)
		}
		for _, g := range rpi.ShardGroups {
			if !g.Deleted() && cut(g).Overlaps(want.Start, want.ends().Add(-1)) {
				return nil, fmt.Errorf("%s.%s holds data of %s already: nothing is overwritten",
					o.Database, o.RetentionPolicy, want.Start.UTC().Format(time.RFC3339))
			}
		}
		s.Data.MaxShardGroupID++
		g := meta.ShardGroupInfo{
			ID: s.Data.MaxShardGroupID, StartTime: want.Start.UTC(), EndTime: want.End.UTC(),
			TruncatedAt: want.TruncatedAt.UTC(),
		}
		replicas, load := min(max(1, rpi.ReplicaN), n), map[uint64]int{}
		var made []uint64
		for i := range want.Shards {
			s.Data.MaxShardID++
			made = append(made, s.Data.MaxShardID)
			g.Shards = append(g.Shards, meta.ShardInfo{
				ID: s.Data.MaxShardID, Owners: deal(nodes, replicas, int(g.ID%uint64(n))+i*replicas, load),
			})
		}
		rpi.ShardGroups = append(rpi.ShardGroups, g)
		sort.Sort(meta.ShardGroupInfos(rpi.ShardGroups))
		ids = append(ids, made)
	}
	return ids, nil
}

// ends is where the group ends, or was truncated.
func (g RestoredGroup) ends() time.Time {
	if !g.TruncatedAt.IsZero() {
		return g.TruncatedAt
	}
	return g.End
}

// cut is a group that ends where it was truncated.
func cut(g meta.ShardGroupInfo) *meta.ShardGroupInfo {
	if g.Truncated() {
		g.EndTime = g.TruncatedAt
	}
	return &g
}

// maxGroupShards bounds a restored group.
const maxGroupShards = 1 << 16

// DropShard forgets a shard. The leader refuses a missing one. A group is deleted
// with its last shard.
type DropShard struct {
	ID   uint64    `json:"id"`
	Time time.Time `json:"time"`
}

func (o DropShard) check(s *State) error {
	found := false
	s.eachGroup(func(g *meta.ShardGroupInfo) {
		found = found || slices.ContainsFunc(g.Shards, func(sh meta.ShardInfo) bool { return sh.ID == o.ID })
	})
	if !found {
		return ErrShardNotFound
	}
	return nil
}

func (o DropShard) at(_ *State, now time.Time) (Op, error) {
	o.Time = now
	return o, nil
}

func (o DropShard) apply(s *State) (any, error) {
	s.eachGroup(func(g *meta.ShardGroupInfo) {
		for i := range g.Shards {
			if g.Shards[i].ID == o.ID {
				g.Shards = append(g.Shards[:i], g.Shards[i+1:]...)
				if len(g.Shards) == 0 && !g.Deleted() {
					g.DeletedAt = o.Time.UTC()
				}
				return
			}
		}
	})
	return nil, nil
}

// AddShardOwner records that a data node holds a copy of a shard.
type AddShardOwner struct {
	ID     uint64 `json:"id"`
	NodeID uint64 `json:"node-id"`
}

func (o AddShardOwner) apply(s *State) (any, error) {
	if n, ok := s.DataNode(o.NodeID); !ok {
		return nil, fmt.Errorf("data node %d does not exist", o.NodeID)
	} else if err := n.CheckMayOwn(); err != nil {
		return nil, err
	}
	found := false
	s.eachGroup(func(g *meta.ShardGroupInfo) {
		for i := range g.Shards {
			sh := &g.Shards[i]
			if sh.ID != o.ID || g.Deleted() {
				continue
			}
			found = true
			if !sh.OwnedBy(o.NodeID) {
				sh.Owners = append(sh.Owners, meta.ShardOwner{NodeID: o.NodeID})
				sort.Slice(sh.Owners, func(a, b int) bool { return sh.Owners[a].NodeID < sh.Owners[b].NodeID })
			}
		}
	})
	if !found {
		return nil, fmt.Errorf("shard %d does not exist", o.ID)
	}
	return nil, nil
}

// CheckMayOwn returns why a data node may not become an owner of a shard: it is passive, or is being drained.
func (n Node) CheckMayOwn() error {
	switch {
	case n.Passive:
		return fmt.Errorf("data node %d at %s is passive and owns no shards: "+
			"make it active with influxd-ctl activate-data %s", n.ID, n.TCPAddr, n.TCPAddr)
	case n.Draining:
		return fmt.Errorf("data node %d at %s is being drained and gets no shards: "+
			"end that with influxd-ctl rebalance -undrain %s", n.ID, n.TCPAddr, n.TCPAddr)
	}
	return nil
}

// RemoveShardOwner records that a data node no longer holds a copy of a shard;
// repeating it is no error.
type RemoveShardOwner struct {
	ID     uint64    `json:"id"`
	NodeID uint64    `json:"node-id"`
	Time   time.Time `json:"time"`
}

func (o RemoveShardOwner) at(_ *State, now time.Time) (Op, error) {
	o.Time = now
	return o, nil
}

func (o RemoveShardOwner) apply(s *State) (any, error) {
	s.removeOwner(o.NodeID, o.Time, func(sh meta.ShardInfo) bool { return sh.ID == o.ID })
	return nil, nil
}

// removeOwner takes node out of the owners of the matching shards. Nobody has
// the data of a shard without owners, so a deleted group forgets it. A live
// group keeps it while another of its shards has an owner, because the number
// of shards decides which shard a series goes to; without any owner the group
// is deleted, and the next write makes a new one.
func (s *State) removeOwner(node uint64, at time.Time, match func(meta.ShardInfo) bool) {
	s.eachGroup(func(g *meta.ShardGroupInfo) {
		changed := false
		for i := range g.Shards {
			sh := &g.Shards[i]
			if !match(*sh) || !sh.OwnedBy(node) {
				continue
			}
			changed = true
			kept := sh.Owners[:0]
			for _, o := range sh.Owners {
				if o.NodeID != node {
					kept = append(kept, o)
				}
			}
			sh.Owners = kept
		}
		if !changed {
			return
		}
		var owned []meta.ShardInfo
		for _, sh := range g.Shards {
			if len(sh.Owners) > 0 {
				owned = append(owned, sh)
			}
		}
		if g.Deleted() || len(owned) == 0 {
			g.Shards = owned
		}
		if len(owned) == 0 && !g.Deleted() {
			g.DeletedAt = at.UTC()
		}
	})
}

// adopt gives the shards of live groups that have no owner as many as their policy asks for.
func (s *State) adopt() {
	nodes := s.placeable()
	n := len(nodes)
	for i := range s.Data.Databases {
		for j := range s.Data.Databases[i].RetentionPolicies {
			rp := &s.Data.Databases[i].RetentionPolicies[j]
			for k := range rp.ShardGroups {
				g, load := &rp.ShardGroups[k], map[uint64]int{}
				for l := range g.Shards {
					if sh := &g.Shards[l]; len(sh.Owners) == 0 && !g.Deleted() && n > 0 {
						sh.Owners = deal(nodes, min(max(1, rp.ReplicaN), n), int(g.ID%uint64(n))+l, load)
					}
				}
			}
		}
	}
}

func (s *State) eachGroup(f func(*meta.ShardGroupInfo)) {
	for i := range s.Data.Databases {
		db := &s.Data.Databases[i]
		for j := range db.RetentionPolicies {
			rp := &db.RetentionPolicies[j]
			for k := range rp.ShardGroups {
				f(&rp.ShardGroups[k])
			}
		}
	}
}
