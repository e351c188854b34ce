package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
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
	"change-grants":           reflect.TypeFor[ChangeGrants](),
	"create-role":             reflect.TypeFor[CreateRole](),
	"drop-role":               reflect.TypeFor[DropRole](),
	"rename-role":             reflect.TypeFor[RenameRole](),
	"change-role":             reflect.TypeFor[ChangeRole](),
	"set-role":                reflect.TypeFor[SetRole](),
	"create-restriction":      reflect.TypeFor[CreateRestriction](),
	"drop-restriction":        reflect.TypeFor[DropRestriction](),
	"create-grant":            reflect.TypeFor[CreateGrant](),
	"drop-grant":              reflect.TypeFor[DropGrant](),
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
	"adopt-server":            reflect.TypeFor[AdoptServer](),
	"adopt-cluster":           reflect.TypeFor[AdoptCluster](),
	"adopt-data-node":         reflect.TypeFor[AdoptDataNode](),
	"end-merges":              reflect.TypeFor[EndMerges](),
	"delete-data-node":        reflect.TypeFor[DeleteDataNode](),
	"create-meta-node":        reflect.TypeFor[CreateMetaNode](),
	"delete-meta-node":        reflect.TypeFor[DeleteMetaNode](),
	"update-data-node":        reflect.TypeFor[UpdateDataNode](),
	"claim-data-node":         reflect.TypeFor[ClaimDataNode](),
	"set-node-labels":         reflect.TypeFor[SetNodeLabels](),
	"activate-data-node":      reflect.TypeFor[ActivateDataNode](),
	"drain-data-node":         reflect.TypeFor[DrainDataNode](),
	"set-ldap":                reflect.TypeFor[SetLDAP](),
	"purge-ldap":              reflect.TypeFor[PurgeLDAP](),
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
	case "create-user", "drop-user", "create-role", "drop-role", "rename-role", "restore-shard-groups",
		"drop-shard", "adopt-server", "create-subscription", "drop-subscription", "update-retention-policy",
		"drop-restriction", "drop-grant":
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
