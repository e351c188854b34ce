package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/batch"
	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
)

// maxTypes bounds the fields, over all shards, whose types are remembered. It is some 50 MB.
const maxTypes = 1 << 19

// fieldTypes remembers which types the fields of shards are known to have.
//
// The first value of a field gives it its type, at each owner of a shard for itself. When two nodes write a new field
// with different types at the same time, the owners could end with different types, and could never agree again. So
// the types of new fields are decided in one place: a write with a field that is not remembered goes to one owner
// first, the first in the order of owners whose copy is whole and which answers. The others get what that owner took.
// All nodes ask in the same order. Later writes with these fields go to all owners at the same time.
//
// A delete may remove fields. What was learnt before it, or while it was under way, is void.
type fieldTypes struct {
	mu     sync.RWMutex
	shards map[uint64]*shardTypes
	n      int // fields of all shards
}

type shardTypes struct {
	deletes      uint64 // Deletes.Seen before the write that the types were learnt from
	measurements map[string]map[string]influxql.DataType
	n            int
}

type fieldKey struct{ measurement, field string }

// unknown returns the fields of points that the shard is not known to have, or has with another type, and whether
// points have a field called time, which is not one of them.
func (t *fieldTypes) unknown(shard, deletes uint64, points []models.Point) (
	out map[fieldKey]influxql.DataType, hasTime bool,
) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var (
		known  map[string]map[string]influxql.DataType
		name   []byte
		fields map[string]influxql.DataType // of the measurement called name
	)
	if s := t.shards[shard]; s != nil && s.deletes == deletes {
		known = s.measurements
	}
	for _, p := range points {
		if !bytes.Equal(p.Name(), name) {
			name = p.Name()
			fields = known[string(name)]
		}
		for f := p.FieldIterator(); f.Next(); {
			typ := fieldindex.DataTypeOf(f.Type())
			if fields[string(f.FieldKey())] == typ {
				continue
			}
			if bytes.Equal(f.FieldKey(), tsdb.TimeBytes) {
				hasTime = true
				continue
			}
			if out == nil {
				out = make(map[fieldKey]influxql.DataType)
			}
			out[fieldKey{string(name), string(f.FieldKey())}] = typ
		}
	}
	return out, hasTime
}

// unknownColumns is unknown of the columns of a batch.
func (t *fieldTypes) unknownColumns(shard, deletes uint64, columns []batch.Column) (
	out map[fieldKey]influxql.DataType, hasTime bool,
) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var known map[string]map[string]influxql.DataType
	if s := t.shards[shard]; s != nil && s.deletes == deletes {
		known = s.measurements
	}
	for _, c := range columns {
		typ := fieldindex.DataTypeOf(c.Type)
		if known[string(c.Measurement)][string(c.Field)] == typ {
			continue
		}
		if bytes.Equal(c.Field, tsdb.TimeBytes) {
			hasTime = true
			continue
		}
		if out == nil {
			out = make(map[fieldKey]influxql.DataType)
		}
		out[fieldKey{string(c.Measurement), string(c.Field)}] = typ
	}
	return out, hasTime
}

// learn remembers the types of fields that an owner of the shard has.
func (t *fieldTypes) learn(shard, deletes uint64, fields map[fieldKey]influxql.DataType) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n+len(fields) > maxTypes {
		t.shards, t.n = nil, 0
	}
	if t.shards == nil {
		t.shards = make(map[uint64]*shardTypes)
	}
	s := t.shards[shard]
	if s == nil || s.deletes != deletes {
		if s != nil {
			t.n -= s.n
		}
		s = &shardTypes{deletes: deletes, measurements: make(map[string]map[string]influxql.DataType)}
		t.shards[shard] = s
	}
	for key, typ := range fields {
		m := s.measurements[key.measurement]
		if m == nil {
			m = make(map[string]influxql.DataType)
			s.measurements[key.measurement] = m
		}
		if _, has := m[key.field]; !has {
			s.n++
			t.n++
		}
		m[key.field] = typ
	}
}

// typeDecider brings writes with new fields to owners.
type typeDecider struct {
	*outgoing
	known fieldTypes
}

// undecidedWrite is a write with fields whose types are not decided yet.
type undecidedWrite struct {
	ctx        tsdb.WriteContext
	db, policy string
	deletes    uint64 // as in shardTypes
	fields     map[fieldKey]influxql.DataType
	yields     bool // as in shardWrite
	requests   []*rpc.WriteShardRequest
	owners     []*delivery // in the shard's order
	done       func(d *delivery, r result, yield func() result)
}

// decide brings a write to one owner after the other until one has decided. The others get what it took, at the
// same time. Owners whose copies are not whole decide when no other owner answers.
func (t *typeDecider) decide(u *undecidedWrite) {
	owners := u.owners
	for _, onlyWhole := range []bool{true, false} {
		var undecided []*delivery
		for i, d := range owners {
			others := slices.Concat(undecided, owners[i+1:])
			r := t.writeFirst(u, d, onlyWhole, len(others) == 0)
			if r.undecided {
				undecided = append(undecided, d)
				continue
			}
			if errors.Is(r.err, errBehind) {
				for _, o := range others { // all get it anew, with a greater version, unless it is acknowledged
					go u.done(o, r, func() result { return t.writeRequests(u, o, u.requests, true) })
				}
				return
			}
			if r.err != nil {
				continue
			}
			requests := u.requests
			if r.partial == nil {
				t.known.learn(d.shard, u.deletes, u.fields)
			} else if len(r.typeConflicts) > 0 {
				requests = withoutTypeConflicts(requests, r.typeConflicts)
			}
			for _, o := range others {
				go t.writeRest(u, o, requests)
			}
			return
		}
		owners = undecided
	}
}

// writeFirst lets an owner decide. It is done with the owner unless the result is undecided. An owner other than the
// last one has half of the time that is left, or its answer would be too late for the others.
func (t *typeDecider) writeFirst(u *undecidedWrite, d *delivery, onlyWhole, last bool) result {
	deadline, _ := d.ctx.Deadline()
	limit := time.Until(deadline)
	if !last {
		limit /= 2
	}
	if d.node != t.Meta.NodeID() {
		defer time.AfterFunc(limit, d.cancel).Stop()
		r := t.writeRemote(d, u.requests, sending{decides: true, onlyWhole: onlyWhole})
		if !r.undecided {
			u.done(d, r, func() result { return t.writeRemote(d, yielding(u.requests), sending{}) })
		}
		return r
	}
	if onlyWhole && t.notWhole(d.ctx, d.shard) {
		return result{undecided: true}
	}
	answer := make(chan result, 1)
	go func() {
		r := t.writeRequests(u, d, u.requests, u.yields)
		if r.partial != nil {
			var err error
			if r.typeConflicts, err = typeConflictsOf(t.Store.Shard(d.shard), u.requests); err != nil {
				r = result{err: err}
			}
		}
		u.done(d, r, func() result { return t.writeRequests(u, d, u.requests, true) })
		answer <- r
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case r := <-answer:
		return r
	case <-timeout.C:
		return result{err: coordinator.ErrTimeout} // its disk hangs
	}
}

// writeRest writes what is left of a write to an owner that did not decide. It is done with the owner then.
func (t *typeDecider) writeRest(u *undecidedWrite, d *delivery, requests []*rpc.WriteShardRequest) {
	u.done(d, t.writeRequests(u, d, requests, u.yields), func() result {
		return t.writeRequests(u, d, requests, true)
	})
}

// writeRequests writes the requests to one owner. This node's store reorders the points that it is given: it gets
// copies.
func (t *typeDecider) writeRequests(
	u *undecidedWrite, d *delivery, requests []*rpc.WriteShardRequest, yields bool,
) result {
	if d.node != t.Meta.NodeID() {
		if yields {
			requests = yielding(requests)
		}
		return t.writeRemote(d, requests, sending{})
	}
	var points []models.Point
	for _, r := range requests {
		some, err := decodePoints(r.Points)
		if err != nil {
			return result{err: err, permanent: true}
		}
		points = append(points, some...)
	}
	if len(points) == 0 {
		return result{}
	}
	messages := func() ([]*rpc.WriteShardRequest, error) { return requests, nil }
	return t.writeLocal(u.ctx, d, u.db, u.policy, points, messages, yields)
}

// notWhole reports whether this node's copy of a shard may lack fields that other owners have.
func (c *ownCopies) notWhole(ctx context.Context, shard uint64) bool {
	return c.Copies.NotWhole(ctx, shard)
}

// typeConflictsOf is typeConflicts of all points of a write.
func typeConflictsOf(shard *tsdb.Shard, requests []*rpc.WriteShardRequest) (out []*rpc.FieldType, err error) {
	for _, r := range requests {
		some, err := typeConflicts(shard, r.Points)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}

// typeConflicts lists the fields of encoded points that have another type in a copy of a shard, with the type there:
// the copy refuses each point that has one of them.
func typeConflicts(shard *tsdb.Shard, encoded [][]byte) ([]*rpc.FieldType, error) {
	if shard == nil {
		return nil, tsdb.ErrShardNotFound
	}
	engine, err := shard.Engine()
	if err != nil {
		return nil, fmt.Errorf("types of fields in shard %d: %w", shard.ID(), err)
	}
	points, err := decodePoints(encoded)
	if err != nil {
		return nil, err
	}
	set := engine.MeasurementFieldSet()
	found := make(map[fieldKey]influxql.DataType)
	for _, p := range points {
		fields := set.Fields(p.Name())
		if fields == nil {
			continue
		}
		for f := p.FieldIterator(); f.Next(); {
			have := fields.Field(string(f.FieldKey()))
			if typ := fieldindex.DataTypeOf(f.Type()); have != nil && typ != influxql.Unknown && typ != have.Type {
				found[fieldKey{string(p.Name()), have.Name}] = have.Type
			}
		}
	}
	out := make([]*rpc.FieldType, 0, len(found))
	for key, typ := range found {
		out = append(out, &rpc.FieldType{Measurement: []byte(key.measurement), Field: []byte(key.field), Type: int32(typ)})
	}
	return out, nil
}

// withoutTypeConflicts returns the requests without the points that an owner refused, and without those that are empty
// then. The requests that it is given are not changed.
func withoutTypeConflicts(requests []*rpc.WriteShardRequest, conflicts []*rpc.FieldType) []*rpc.WriteShardRequest {
	types := make(map[fieldKey]influxql.DataType)
	for _, c := range conflicts {
		types[fieldKey{string(c.Measurement), string(c.Field)}] = influxql.DataType(c.Type)
	}
	refused := func(b []byte) bool {
		p, err := decodePoint(b)
		if err != nil {
			return false // no owner takes it
		}
		for f := p.FieldIterator(); f.Next(); {
			typ := fieldindex.DataTypeOf(f.Type())
			have, ok := types[fieldKey{string(p.Name()), string(f.FieldKey())}]
			if ok && typ != influxql.Unknown && typ != have {
				return true
			}
		}
		return false
	}
	var out []*rpc.WriteShardRequest
	for _, r := range requests {
		kept := slices.DeleteFunc(slices.Clone(r.Points), refused)
		if len(kept) > 0 {
			out = append(out, &rpc.WriteShardRequest{
				ShardId: r.ShardId, Database: r.Database, RetentionPolicy: r.RetentionPolicy, UserId: r.UserId, Points: kept,
				Version: r.Version, Yields: r.Yields,
			})
		}
	}
	return out
}
