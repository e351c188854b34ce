package replication

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/batch"
	"concord/internal/order"
	"concord/internal/rpc"
)

// errShardDeleted is for a write to a shard that is not in the metadata any more.
var errShardDeleted = errors.New("the shard was dropped")

// result is what one owner made of a write.
type result struct {
	err       error // from the owner, or from the connection to it
	took      int   // without err: the points that the owner took, or has something newer of
	partial   *tsdb.PartialWriteError
	hinted    bool // with err: the write is in hinted handoff
	permanent bool // with err: the same write can never succeed

	undecided     bool             // nothing was written: the owner's copy is not whole, and another one decides
	typeConflicts []*rpc.FieldType // with partial, of an owner that decides: the types that it has
}

// refused reports whether the owner will never take the write, although the shard exists.
func (r result) refused() bool {
	return r.err != nil && r.permanent && !errors.Is(r.err, errShardDeleted)
}

// writeShard writes to all owners and returns when the level is decided. A write with fields that the shard is not
// known to have goes to one owner first, which decides their types.
func (w *Writer) writeShard(
	ctx tsdb.WriteContext, shard *emeta.ShardInfo, db, policy string, level models.ConsistencyLevel,
	points []models.Point, wrote *written,
) error {
	owners := shard.Owners
	if len(owners) == 0 {
		return fmt.Errorf("%w: shard %d has no owners", coordinator.ErrWriteFailed, shard.ID)
	}
	deletes := w.Deletes.Seen(db)
	read := batch.Of(points)
	if read != nil {
		defer read.Release()
	}
	newFields, mayHaveTime := w.fieldsOf(shard, deletes, points, read)
	if mayHaveTime {
		left, reason, err := withoutTime(points)
		if err != nil {
			return err
		}
		if reason != "" {
			err := w.writeShard(ctx, shard, db, policy, level, left, wrote)
			return alsoStripped(err, tsdb.PartialWriteError{Reason: reason, Database: db, RetentionPolicy: policy})
		}
	}
	values := valuesOf(read, points)
	if len(newFields) > 0 {
		read = nil // the owner that decides may refuse some of the points
	}
	for restamps := 0; ; restamps++ {
		write := &shardWrite{
			ctx: ctx, shard: shard, db: db, policy: policy, level: level, points: points, batch: read,
			newFields: newFields, deletes: deletes, yields: restamps == maxRestamps,
		}
		if read == nil {
			write.points = slices.Clone(points) // the local store reorders what it is given
		}
		if err := w.writeOwners(write); !errors.Is(err, errBehind) {
			wrote.count(len(points), values, err)
			return err
		}
	}
}

// fieldsOf returns the fields of points whose types are not known, where owners have to agree on them, and whether a
// field may be called time. Read is the batch of the points, or nil.
func (w *Writer) fieldsOf(shard *emeta.ShardInfo, deletes uint64, points []models.Point, read *batch.Batch) (
	newFields map[fieldKey]influxql.DataType, mayHaveTime bool,
) {
	switch {
	case len(shard.Owners) == 1 && read == nil:
		return nil, true
	case len(shard.Owners) == 1:
		return nil, read.HasField(tsdb.TimeBytes)
	case read == nil:
		return w.types.known.unknown(shard.ID, deletes, points)
	}
	return w.types.known.unknownColumns(shard.ID, deletes, read.Columns())
}

// maxRestamps is how often a write gets a greater version because an owner had a newer one of the same points. After
// that the newer writes overlap with this one, and may win.
const maxRestamps = 3

// shardWrite is one attempt to write points to the owners of a shard.
type shardWrite struct {
	ctx        tsdb.WriteContext
	shard      *emeta.ShardInfo
	db, policy string
	level      models.ConsistencyLevel
	points     []models.Point
	batch      *batch.Batch                   // of points; nil when they cannot be one, or some field is new
	newFields  map[fieldKey]influxql.DataType // whose types are not known
	deletes    uint64                         // as in shardTypes
	yields     bool                           // to newer versions of the points

	version  order.Version
	requests []*rpc.WriteShardRequest // made by encode, or by the first who asks messages
	encoded  sync.Once
	failed   error // why there are no requests
}

// encode makes what the owners other than self get. It returns the bytes of all points, 0 when there are no such
// owners.
func (a *shardWrite) encode(self uint64) (size int, err error) {
	if !slices.ContainsFunc(a.shard.Owners, func(o emeta.ShardOwner) bool { return o.NodeID != self }) {
		return 0, nil
	}
	if a.batch != nil && len(a.batch.Encoded()) <= batch.MaxBytes {
		return a.batch.Size(), nil
	}
	if a.batch != nil { // it goes in several messages
		a.batch, a.points = nil, slices.Clone(a.points)
	}
	a.encoded.Do(func() { a.requests, size, a.failed = encode(a.ctx, a.shard.ID, a.db, a.policy, a.points) })
	return size, a.failed
}

// messages returns the write in the form that nodes of all versions take and that hinted handoff keeps. Owners share
// it, and only read.
func (a *shardWrite) messages() ([]*rpc.WriteShardRequest, error) {
	a.encoded.Do(func() {
		// Those of the batch: when the client has its answer, its slice may have other points.
		a.requests, _, a.failed = encode(a.ctx, a.shard.ID, a.db, a.policy, a.local())
		stamp(a.requests, a.version, a.yields)
	})
	return a.requests, a.failed
}

// local returns points for this node's own store, which reorders them.
func (a *shardWrite) local() []models.Point {
	if a.batch != nil {
		return a.batch.Points()
	}
	return a.points
}

// writeOwners makes an attempt. The error is errBehind when an owner has something newer and the client has no answer.
func (w *Writer) writeOwners(a *shardWrite) error {
	owners := make([]uint64, len(a.shard.Owners))
	for i, o := range a.shard.Owners {
		owners[i] = o.NodeID
	}
	if !w.running.begin(len(owners)) {
		return fmt.Errorf("%w: this node is shutting down", coordinator.ErrWriteFailed)
	}
	self := w.Meta.NodeID()
	w.Order.Clock.SetNode(self)
	// Taken before the local store reorders the points. The points themselves
	// must outlive the call: the engine's inputs parse each request anew.
	size, err := a.encode(self)
	if err != nil {
		w.running.wg.Add(-len(owners))
		return err
	}
	deliveries := w.lanes.begin(owners, a.shard.ID, size, w.WriteTimeout)
	defer w.lanes.answer(deliveries)
	a.version = deliveries[0].version
	stamp(a.requests, a.version, a.yields)
	results := make(chan result, len(owners))
	// yield writes what was sent to the owner again, without the points of which the owner has something newer.
	done := func(d *delivery, r result, yield func() result) {
		w.note(d, r)
		results <- r
		if errors.Is(r.err, errBehind) && d.verdict.wait() {
			w.note(d, yield()) // other owners have the write, or may have it
		}
		w.lanes.finish(d)
		w.running.wg.Done()
	}
	if len(a.newFields) > 0 {
		go w.types.decide(&undecidedWrite{
			a.ctx, a.db, a.policy, a.deletes, a.newFields, a.yields, a.requests, deliveries, done,
		})
	} else {
		for _, d := range deliveries {
			if a.batch != nil {
				a.batch.Retain() // the client may have its answer before the owner has the points
			}
			go w.writeOwner(a, d, done)
		}
	}
	err = w.decide(a.level, results, len(owners))
	for _, l := range deliveries[0].verdict.pass(err) { // before the client has its answer
		w.Copies.Missed(l.node, l.shard, l.kept)
	}
	return err
}

// note notes what an owner will never take of a write, although others may.
func (w *Writer) note(d *delivery, r result) {
	var lack []lane
	switch _, member := w.Meta.DataNode(d.node); {
	case !member:
	case r.refused():
		if d.verdict.note(lacks{d.lane, false}) {
			lack = []lane{d.lane}
		}
	case r.err == nil:
		reason := ""
		if r.partial != nil {
			reason = r.partial.Reason
		}
		lack = d.verdict.took(d.lane, r.took, reason)
	}
	for _, l := range lack {
		w.Copies.Missed(l.node, l.shard, false)
	}
}

// writeOwner writes to one owner. It is done with the owner then.
func (w *Writer) writeOwner(a *shardWrite, d *delivery, done func(d *delivery, r result, yield func() result)) {
	write := w.writeAway
	if d.node == w.Meta.NodeID() {
		write = w.writeHere
	}
	done(d, write(a, d, a.yields), func() result { return write(a, d, true) })
	if a.batch != nil {
		a.batch.Release()
	}
}

// writeHere writes to this node's own copy. Yields is as in shardWrite, also below.
func (w *Writer) writeHere(a *shardWrite, d *delivery, yields bool) result {
	return w.writeLocal(a.ctx, d, a.db, a.policy, a.local(), a.messages, yields)
}

// writeAway writes to another node.
func (w *Writer) writeAway(a *shardWrite, d *delivery, yields bool) result {
	if a.batch != nil && w.batchless.takes(d.node) {
		if r := w.writeBatch(a, d, yields); !errors.Is(r.err, errNoBatches) {
			return r
		}
		w.batchless.note(d.node)
	}
	requests, err := a.messages()
	if err != nil {
		return result{err: err, permanent: true}
	}
	if yields && !a.yields {
		requests = yielding(requests)
	}
	return w.writeRemote(d, requests, sending{})
}
