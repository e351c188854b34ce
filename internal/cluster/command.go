package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/statement"
)

// Command is a change of the state as it travels and is logged: the name of an
// Op, and its fields as JSON.
type Command struct {
	Type string          `json:"type"`
	Args json.RawMessage `json:"args"`
}

// Op is one kind of change. An op carries everything that is not the same on
// every node or at every time (clock readings, password hashes, random IDs),
// so that replaying the log gives the same state everywhere.
type Op interface {
	// apply changes s, which is the caller's own copy, and may leave it
	// half-changed when it fails.
	apply(s *State) (result any, err error)
}

// ops names every op. A name is in logs on disk: it is never changed or used
// for something else.
var ops = map[string]reflect.Type{
	"create-database":         reflect.TypeFor[CreateDatabase](),
	"drop-database":           reflect.TypeFor[DropDatabase](),
	"create-retention-policy": reflect.TypeFor[CreateRetentionPolicy](),
	"update-retention-policy": reflect.TypeFor[UpdateRetentionPolicy](),
	"drop-retention-policy":   reflect.TypeFor[DropRetentionPolicy](),
	"create-continuous-query": reflect.TypeFor[CreateContinuousQuery](),
	"drop-continuous-query":   reflect.TypeFor[DropContinuousQuery](),
	"note-continuous-queries": reflect.TypeFor[NoteContinuousQueries](),
	"create-subscription":     reflect.TypeFor[CreateSubscription](),
	"drop-subscription":       reflect.TypeFor[DropSubscription](),
	"create-user":             reflect.TypeFor[CreateUser](),
	"update-user":             reflect.TypeFor[UpdateUser](),
	"drop-user":               reflect.TypeFor[DropUser](),
	"set-privilege":           reflect.TypeFor[SetPrivilege](),
	"set-admin-privilege":     reflect.TypeFor[SetAdminPrivilege](),
	"create-role":             reflect.TypeFor[CreateRole](),
	"drop-role":               reflect.TypeFor[DropRole](),
	"set-role":                reflect.TypeFor[SetRole](),
	"create-shard-group":      reflect.TypeFor[CreateShardGroup](),
	"delete-shard-group":      reflect.TypeFor[DeleteShardGroup](),
	"precreate-shard-groups":  reflect.TypeFor[PrecreateShardGroups](),
	"prune-shard-groups":      reflect.TypeFor[PruneShardGroups](),
	"truncate-shard-groups":   reflect.TypeFor[TruncateShardGroups](),
	"restore-shard-groups":    reflect.TypeFor[RestoreShardGroups](),
	"drop-shard":              reflect.TypeFor[DropShard](),
	"add-shard-owner":         reflect.TypeFor[AddShardOwner](),
	"remove-shard-owner":      reflect.TypeFor[RemoveShardOwner](),
	"create-data-node":        reflect.TypeFor[CreateDataNode](),
	"delete-data-node":        reflect.TypeFor[DeleteDataNode](),
	"create-meta-node":        reflect.TypeFor[CreateMetaNode](),
	"delete-meta-node":        reflect.TypeFor[DeleteMetaNode](),
	"update-data-node":        reflect.TypeFor[UpdateDataNode](),
	"claim-data-node":         reflect.TypeFor[ClaimDataNode](),
	"set-node-labels":         reflect.TypeFor[SetNodeLabels](),
}

var opNames = func() map[reflect.Type]string {
	m := make(map[reflect.Type]string, len(ops))
	for name, t := range ops {
		m[t] = name
	}
	return m
}()

// NewCommand encodes an op.
func NewCommand(op Op) (Command, error) {
	b, err := json.Marshal(op)
	if err != nil {
		return Command{}, fmt.Errorf("encode %T: %w", op, err)
	}
	return Command{Type: opNames[reflect.TypeOf(op)], Args: b}, nil
}

// Repeatable tells whether carrying the command out twice does what once does,
// without an error the second time.
func (c Command) Repeatable() bool {
	switch c.Type {
	case "create-user", "drop-user", "create-role", "drop-role", "restore-shard-groups", "drop-shard",
		"create-subscription", "drop-subscription", "update-retention-policy":
		return false
	}
	return true
}

func (c Command) op() (Op, error) {
	t, ok := ops[c.Type]
	if !ok {
		return nil, fmt.Errorf("unknown command %q", c.Type)
	}
	v := reflect.New(t)
	dec := json.NewDecoder(bytes.NewReader(c.Args))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v.Interface()); err != nil {
		return nil, fmt.Errorf("arguments of %s: %w", c.Type, err)
	}
	return v.Elem().Interface().(Op), nil
}

// checker is an Op with a rule that logs of earlier versions may break: apply must do the same with them everywhere.
type checker interface {
	check(s *State) error
}

// Check returns why a command must not be logged. The leader calls it before it logs one.
func (s *State) Check(c Command) error {
	op, err := c.op()
	if err != nil {
		return err
	}
	if o, ok := op.(checker); ok {
		return o.check(s)
	}
	return nil
}

// Done reports whether c is known to change nothing. Some clients create their database before each write, and all
// writes that are under way when the time of a shard group begins make it.
func (s *State) Done(c Command) bool {
	op, err := c.op()
	if err != nil {
		return false
	}
	switch op := op.(type) {
	case CreateDatabase:
		return op.Spec == nil && s.Data.Database(op.Name) != nil
	case CreateShardGroup:
		g, err := s.Data.ShardGroupByTimestamp(op.Database, op.RetentionPolicy, op.Time)
		return err == nil && g != nil
	}
	return false
}

// dated is an op that means now.
type dated interface {
	// at returns the op as of now, for the given state, or why now is not the time for it.
	at(s *State, now time.Time) (Op, error)
}

// At returns c with what it says of the present replaced by now, the clock of the node that decides. It refuses to
// delete shard groups that have not expired by that clock.
func (s *State) At(c Command, now time.Time) (Command, error) {
	op, err := c.op()
	if err != nil {
		return c, err
	}
	d, ok := op.(dated)
	if !ok {
		return c, nil
	}
	if op, err = d.at(s, now); err != nil {
		return c, err
	}
	return NewCommand(op)
}

// Apply carries out c as the change with the given index. On an error s is as
// it was.
func (s *State) Apply(index uint64, c Command) (result any, err error) {
	next, result, err := s.Next(index, c)
	if err != nil {
		return nil, err
	}
	*s = *next
	return result, nil
}

// Next is Apply that leaves s alone and returns the state after it.
func (s *State) Next(index uint64, c Command) (next *State, result any, err error) {
	op, err := c.op()
	if err != nil {
		return nil, nil, err
	}
	next = s.Clone()
	if result, err = op.apply(next); err != nil {
		return nil, nil, err
	}
	next.Index, next.Data.Index = index, index
	return next, result, nil
}

// CreateDatabase creates a database, with the policy of Spec as its default
// one. Without Spec the policy is autogen, and an existing database is left as it is.
type CreateDatabase struct {
	Name string                    `json:"name"`
	Spec *meta.RetentionPolicySpec `json:"spec,omitempty"`
}

func (o CreateDatabase) apply(s *State) (any, error) {
	spec := o.Spec
	if db := s.Data.Database(o.Name); db != nil && spec == nil {
		return nil, nil
	} else if spec == nil {
		spec = &meta.RetentionPolicySpec{}
	}
	if err := checkName(o.Name, meta.ErrDatabaseNameRequired); err != nil {
		return nil, err
	}
	if err := s.Data.CreateDatabase(o.Name); err != nil {
		return nil, err
	}
	db := s.Data.Database(o.Name)
	if len(db.RetentionPolicies) == 0 {
		return nil, s.createPolicy(o.Name, spec, true)
	}
	name := spec.NewRetentionPolicyInfo().Name
	if !spec.Matches(db.RetentionPolicy(name)) || db.DefaultRetentionPolicy != name {
		return nil, meta.ErrRetentionPolicyConflict
	}
	return nil, nil
}

// DropDatabase drops a database; a missing one is no error.
type DropDatabase struct {
	Name string `json:"name"`
}

func (o DropDatabase) apply(s *State) (any, error) { return nil, s.Data.DropDatabase(o.Name) }

// CreateRetentionPolicy creates a policy; an equal one that exists is no error.
type CreateRetentionPolicy struct {
	Database string                   `json:"database"`
	Spec     meta.RetentionPolicySpec `json:"spec"`
	Default  bool                     `json:"default"`
}

func (o CreateRetentionPolicy) apply(s *State) (any, error) {
	return nil, s.createPolicy(o.Database, &o.Spec, o.Default)
}

// createPolicy gives a policy without an asked-for replication factor the
// default one, and refuses a factor that the data nodes cannot hold.
func (s *State) createPolicy(database string, spec *meta.RetentionPolicySpec, makeDefault bool) error {
	if spec.Duration != nil && *spec.Duration < meta.MinRetentionPolicyDuration && *spec.Duration != 0 {
		return meta.ErrRetentionPolicyDurationTooLow
	}
	rpi := spec.NewRetentionPolicyInfo()
	if err := checkName(rpi.Name, meta.ErrRetentionPolicyNameRequired); err != nil {
		return err
	}
	old, err := s.Data.RetentionPolicy(database, rpi.Name)
	if err != nil {
		return err
	}
	switch {
	case spec.ReplicaN != nil:
		// An identical policy stays fine when data nodes went away since.
		if old == nil || old.ReplicaN != rpi.ReplicaN {
			if err := s.checkReplicaN(rpi.ReplicaN); err != nil {
				return err
			}
		}
	case old != nil:
		rpi.ReplicaN = old.ReplicaN
	default:
		rpi.ReplicaN = s.defaultReplicaN()
	}
	return s.Data.CreateRetentionPolicy(database, rpi, makeDefault)
}

func (s *State) defaultReplicaN() int {
	switch n := len(s.DataNodes); {
	case n == 0:
		return 1
	case n <= 3:
		return n
	default:
		return 2
	}
}

func (s *State) checkReplicaN(n int) error {
	if n < 1 {
		return meta.ErrReplicationFactorTooLow
	} else if n > len(s.DataNodes) {
		return fmt.Errorf("replication factor %d is above the number of data nodes, %d", n, len(s.DataNodes))
	}
	return nil
}

func checkName(name string, empty error) error {
	if name == "" {
		return empty
	} else if len(name) > meta.MaxNameLen {
		return meta.ErrNameTooLong
	} else if !meta.ValidName(name) { // names become folders
		return meta.ErrInvalidName
	}
	return nil
}

// UpdateRetentionPolicy changes the fields of a policy that Update sets.
type UpdateRetentionPolicy struct {
	Database string                     `json:"database"`
	Name     string                     `json:"name"`
	Update   meta.RetentionPolicyUpdate `json:"update"`
	Default  bool                       `json:"default"`
}

func (o UpdateRetentionPolicy) apply(s *State) (any, error) {
	if o.Update.ReplicaN != nil {
		if err := s.checkReplicaN(*o.Update.ReplicaN); err != nil {
			return nil, err
		}
	}
	if o.Update.Name != nil {
		if err := checkName(*o.Update.Name, meta.ErrRetentionPolicyNameRequired); err != nil {
			return nil, err
		}
	}
	if db := s.Data.Database(o.Database); db != nil && o.Update.Name != nil && db.DefaultRetentionPolicy == o.Name {
		o.Default = true // the default policy stays the default under its new name
	}
	return nil, s.Data.UpdateRetentionPolicy(o.Database, o.Name, &o.Update, o.Default)
}

// DropRetentionPolicy drops a policy; a missing one is no error.
type DropRetentionPolicy struct {
	Database string `json:"database"`
	Name     string `json:"name"`
}

func (o DropRetentionPolicy) apply(s *State) (any, error) {
	return nil, s.Data.DropRetentionPolicy(o.Database, o.Name)
}

// CreateContinuousQuery saves a continuous query.
type CreateContinuousQuery struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Query    string `json:"query"`
}

func (o CreateContinuousQuery) check(*State) error {
	// Every data node parses it: one that is too deep, from a backup perhaps, would end them all.
	if err := statement.Peer.Query(o.Query, nil); err != nil {
		return fmt.Errorf("continuous query %s of %s: %w", o.Name, o.Database, err)
	}
	return nil
}

func (o CreateContinuousQuery) apply(s *State) (any, error) {
	s.beginsAnew(ContinuousQuery{o.Database, o.Name})
	return nil, s.Data.CreateContinuousQuery(o.Database, o.Name, o.Query)
}

// DropContinuousQuery removes a continuous query; a missing one is no error.
type DropContinuousQuery struct {
	Database string `json:"database"`
	Name     string `json:"name"`
}

func (o DropContinuousQuery) apply(s *State) (any, error) {
	return nil, s.Data.DropContinuousQuery(o.Database, o.Name)
}

// CreateSubscription adds a subscription to a policy.
type CreateSubscription struct {
	Database        string   `json:"database"`
	RetentionPolicy string   `json:"retention-policy"`
	Name            string   `json:"name"`
	Mode            string   `json:"mode"`
	Destinations    []string `json:"destinations"`
}

func (o CreateSubscription) apply(s *State) (any, error) {
	return nil, s.Data.CreateSubscription(o.Database, o.RetentionPolicy, o.Name, o.Mode, o.Destinations)
}

// DropSubscription removes a subscription.
type DropSubscription struct {
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention-policy"`
	Name            string `json:"name"`
}

func (o DropSubscription) apply(s *State) (any, error) {
	return nil, s.Data.DropSubscription(o.Database, o.RetentionPolicy, o.Name)
}

// CreateUser adds a user. Hash is the bcrypt hash of the password.
type CreateUser struct {
	Name  string `json:"name"`
	Hash  string `json:"hash"`
	Admin bool   `json:"admin"`
}

func (o CreateUser) apply(s *State) (any, error) {
	return nil, s.Data.CreateUser(o.Name, o.Hash, o.Admin)
}

// UpdateUser gives a user another bcrypt hash.
type UpdateUser struct {
	Name string `json:"name"`
	Hash string `json:"hash"`
}

func (o UpdateUser) apply(s *State) (any, error) { return nil, s.Data.UpdateUser(o.Name, o.Hash) }

// DropUser removes a user.
type DropUser struct {
	Name string `json:"name"`
}

func (o DropUser) apply(s *State) (any, error) {
	s.leaveRoles(o.Name)
	return nil, s.Data.DropUser(o.Name)
}

// SetPrivilege sets what a user may do with a database.
type SetPrivilege struct {
	User      string             `json:"user"`
	Database  string             `json:"database"`
	Privilege influxql.Privilege `json:"privilege"`
}

func (o SetPrivilege) apply(s *State) (any, error) {
	return nil, s.Data.SetPrivilege(o.User, o.Database, o.Privilege)
}

// SetAdminPrivilege makes a user an administrator, or no longer one.
type SetAdminPrivilege struct {
	User  string `json:"user"`
	Admin bool   `json:"admin"`
}

func (o SetAdminPrivilege) apply(s *State) (any, error) {
	return nil, s.Data.SetAdminPrivilege(o.User, o.Admin)
}

// CreateDataNode adds a data node, or tells a new HTTP address and version of
// the one with this TCP address. The result is the Node.
type CreateDataNode struct {
	TCPAddr  string `json:"tcp-addr"`
	HTTPAddr string `json:"http-addr"`
	Version  string `json:"version"`
	Identity string `json:"identity,omitempty"` // empty in logs of earlier versions
}

func (o CreateDataNode) apply(s *State) (any, error) {
	n := Node{TCPAddr: o.TCPAddr, HTTPAddr: o.HTTPAddr, Version: o.Version, Identity: o.Identity}
	return s.putNode(&s.DataNodes, n)
}

// CreateMetaNode adds a meta node as CreateDataNode does a data node, and
// names the cluster if it has no ID yet. The result is the Node.
type CreateMetaNode struct {
	RaftAddr  string `json:"raft-addr"`
	HTTPAddr  string `json:"http-addr"`
	Version   string `json:"version"`
	ClusterID uint64 `json:"cluster-id"` // random
}

func (o CreateMetaNode) apply(s *State) (any, error) {
	if s.Data.ClusterID == 0 {
		if o.ClusterID == 0 {
			return nil, errors.New("the first meta node needs a cluster id")
		}
		s.Data.ClusterID = o.ClusterID
	}
	return s.putNode(&s.MetaNodes, Node{TCPAddr: o.RaftAddr, HTTPAddr: o.HTTPAddr, Version: o.Version})
}

func (s *State) putNode(nodes *[]Node, n Node) (Node, error) {
	if n.TCPAddr == "" {
		return Node{}, errors.New("a node needs an address")
	}
	for i, old := range *nodes {
		if old.TCPAddr == n.TCPAddr {
			n.ID, n.Labels = old.ID, old.Labels
			(*nodes)[i] = n
			return n, nil
		}
	}
	s.MaxNodeID++
	n.ID = s.MaxNodeID
	*nodes = append(*nodes, n) // the highest ID of all: still sorted
	return n, nil
}

// DeleteDataNode removes a data node and its ownerships. With Adopt, the shards
// that have no owner then go to other nodes, without their data: otherwise
// writes to them would fail for as long as their group lives.
type DeleteDataNode struct {
	ID    uint64    `json:"id"`
	Time  time.Time `json:"time"`
	Adopt bool      `json:"adopt,omitempty"` // false in logs of earlier versions
}

func (o DeleteDataNode) at(_ *State, now time.Time) (Op, error) {
	o.Time = now
	return o, nil
}

func (o DeleteDataNode) apply(s *State) (any, error) {
	if _, ok := s.DataNode(o.ID); !ok {
		return nil, fmt.Errorf("data node %d does not exist", o.ID)
	}
	for i, n := range s.DataNodes {
		if n.ID == o.ID {
			s.DataNodes = append(s.DataNodes[:i], s.DataNodes[i+1:]...)
			break
		}
	}
	s.removeOwner(o.ID, o.Time, func(meta.ShardInfo) bool { return true })
	if o.Adopt {
		s.adopt()
	}
	return nil, nil
}

// DeleteMetaNode removes a meta node; a missing one is no error.
type DeleteMetaNode struct {
	ID uint64 `json:"id"`
}

func (o DeleteMetaNode) apply(s *State) (any, error) {
	s.MetaNodes = slices.DeleteFunc(s.MetaNodes, func(n Node) bool { return n.ID == o.ID })
	return nil, nil
}

// UpdateDataNode gives a data node's ID, shards and labels to another address,
// which may be the same. The result is the Node.
type UpdateDataNode struct {
	ID       uint64 `json:"id"`
	TCPAddr  string `json:"tcp-addr"`
	HTTPAddr string `json:"http-addr"`
	Version  string `json:"version"`
	Identity string `json:"identity,omitempty"` // empty in logs of earlier versions
}

func (o UpdateDataNode) apply(s *State) (any, error) {
	if o.TCPAddr == "" {
		return nil, errors.New("a node needs an address")
	}
	if other, ok := s.DataNodeByAddr(o.TCPAddr); ok && other.ID != o.ID {
		return nil, fmt.Errorf("%s is the address of data node %d already", o.TCPAddr, other.ID)
	}
	for i := range s.DataNodes {
		if n := &s.DataNodes[i]; n.ID == o.ID {
			n.TCPAddr, n.HTTPAddr, n.Version, n.Identity = o.TCPAddr, o.HTTPAddr, o.Version, o.Identity
			return *n, nil
		}
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// ClaimDataNode gives the place of a data node that joined with an earlier version to the folders that claim it first.
// Repeating it is no error.
type ClaimDataNode struct {
	ID       uint64 `json:"id"`
	Identity string `json:"identity"`
}

func (o ClaimDataNode) apply(s *State) (any, error) {
	for i := range s.DataNodes {
		n := &s.DataNodes[i]
		if n.ID != o.ID {
			continue
		}
		if n.Identity != "" && n.Identity != o.Identity {
			return nil, fmt.Errorf("other folders are data node %d already", o.ID)
		}
		n.Identity = o.Identity
		return nil, nil
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// SetNodeLabels sets labels of a node of either kind, and removes those in Delete.
type SetNodeLabels struct {
	ID     uint64            `json:"id"`
	Set    map[string]string `json:"set,omitempty"`
	Delete []string          `json:"delete,omitempty"`
}

func (o SetNodeLabels) apply(s *State) (any, error) {
	for _, nodes := range [][]Node{s.DataNodes, s.MetaNodes} {
		for i := range nodes {
			n := &nodes[i]
			if n.ID != o.ID {
				continue
			}
			labels := make(map[string]string, len(n.Labels)+len(o.Set))
			maps.Copy(labels, n.Labels)
			maps.Copy(labels, o.Set)
			for _, k := range o.Delete {
				delete(labels, k)
			}
			if n.Labels = labels; len(labels) == 0 {
				n.Labels = nil
			}
			return *n, nil
		}
	}
	return nil, fmt.Errorf("node %d does not exist", o.ID)
}
