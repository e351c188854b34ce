package datanode

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/deletes"
	"concord/internal/entropy/local"
	"concord/internal/entropy/service"
	"concord/internal/eventlog"
	"concord/internal/handoff"
	"concord/internal/httpapi"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

const (
	// writtenLately is how long ago the last change of a copy is that is being written.
	writtenLately = 30 * time.Second
	// sizesFor is for how long the size of all copies is taken as it was found.
	sizesFor = 30 * time.Second
	// maxDeletes is how many deletes that wait for one node are in a report.
	maxDeletes = 100
	// maxQueryText bounds the text of one running query in a report, in bytes.
	maxQueryText = 2000
	// maxQueryTexts bounds the texts of all running queries together, where the whole text is asked for, in bytes.
	maxQueryTexts = 16 << 20
)

// overview answers what the page of the cluster asks of this node.
type overview struct {
	rpc.UnimplementedOverviewServer
	version string
	started time.Time
	process uint64
	dirs    []string // on which there must be room
	free    func(dir string) (free, total uint64, err error)
	store   *tsdb.Store
	load    *httpapi.Load
	events  *eventlog.Log
	hints   *handoff.Service // nil when it is off
	shards  *shardcopy.Server
	tasks   *query.TaskManager
	copies  *local.Local
	entropy *service.Service // nil when it is off

	sizes sizes
}

// newOverview makes it of parts that stay open as long as other nodes are answered.
func (n *Node) newOverview(shards *shardcopy.Server, copies *local.Local) *overview {
	return &overview{
		version: n.version, started: n.started, process: n.place.process,
		dirs: []string{n.cfg.Data.Dir, n.cfg.Data.WALDir, n.cfg.Meta.Dir, n.cfg.HintedHandoff.Dir},
		free: n.seams.Free, store: n.Store, load: n.load, events: &n.events, hints: n.handoff, shards: shards,
		copies: copies,
		tasks:  n.queries.executor.TaskManager, entropy: n.Entropy,
	}
}

// Report tells what this node knows of itself.
func (o *overview) Report(ctx context.Context, r *rpc.ReportRequest) (*rpc.ReportResponse, error) {
	if r.Queries {
		return &rpc.ReportResponse{Queries: o.queries(maxQueryTexts)}, nil
	}
	out := &rpc.ReportResponse{
		Version: o.version, Started: o.started.UnixNano(), Process: o.process, Disks: o.disks(), Load: o.loads(r.Load),
		Hints: o.waiting(), Queries: o.queries(0),
	}
	copies, err := o.shards.Copies(ctx, &rpc.CopiesRequest{})
	if err != nil {
		return nil, err
	}
	out.Copies = copies.Copies
	out.ShardBytes, out.ShardCount = o.sizes.of(o.store)
	out.Written = o.written()
	if o.entropy != nil {
		c := o.entropy.Coverage()
		out.Unchecked = c.Unchecked
		if !c.Checked.IsZero() {
			out.Checked = c.Checked.UnixNano()
		}
		if r.ShardId != 0 {
			out.Shard = &rpc.ShardReport{}
			if at := o.entropy.Compared(r.ShardId); !at.IsZero() {
				out.Shard.Compared = at.UnixNano()
			}
			if at := o.copies.Digested(r.ShardId); !at.IsZero() {
				out.Shard.Digested = at.UnixNano()
			}
		}
	}
	out.Deletes, out.MoreDeletes = o.deletes()
	after := r.EventsAfter
	if r.Process != o.process {
		after = 0
	}
	for _, e := range o.events.After(after) {
		out.Events = append(out.Events, &rpc.Event{
			Number: e.Number, Time: e.Time.UnixNano(), Level: e.Level, Kind: e.Kind, Text: []byte(e.Text),
			ShardId: e.Shard,
		})
	}
	return out, nil
}

// KillQuery ends a query of a client on this node.
func (o *overview) KillQuery(_ context.Context, r *rpc.KillQueryRequest) (*rpc.KillQueryResponse, error) {
	if err := o.tasks.KillQuery(r.Id); err != nil {
		return nil, status.Errorf(codes.NotFound, "query %d has ended, or never was: %v", r.Id, err)
	}
	return &rpc.KillQueryResponse{}, nil
}

// disks are the file systems of the node's folders, each once.
func (o *overview) disks() (out []*rpc.Disk) {
	for _, dir := range o.dirs {
		free, total, err := o.free(dir)
		if err != nil {
			continue // the folder is made when it is needed
		}
		same := func(d *rpc.Disk) bool { return d.Free == free && d.Total == total }
		if !slices.ContainsFunc(out, same) {
			out = append(out, &rpc.Disk{Path: dir, Free: free, Total: total})
		}
	}
	return out
}

// loads is the load of the last hour, or its latest part.
func (o *overview) loads(all bool) (out []*rpc.Load) {
	n := 1
	if all {
		n = httpapi.LoadParts
	}
	for _, p := range o.load.Parts(n) {
		out = append(out, &rpc.Load{
			Start: p.Start.UnixNano(), Seconds: int64(p.Length / time.Second), Writes: p.Writes, Points: p.Points,
			Queries: p.Queries, WriteP99: int64(p.WriteP99), QueryP99: int64(p.QueryP99),
		})
	}
	return out
}

func (o *overview) waiting() (out []*rpc.HintQueue) {
	if o.hints == nil {
		return nil
	}
	for _, n := range o.hints.Report() {
		q := &rpc.HintQueue{Node: n.Node, Bytes: n.Bytes, Shards: n.Shards, Sent: n.Sent, Dropped: n.Dropped}
		if !n.Oldest.IsZero() {
			q.Oldest = n.Oldest.UnixNano()
		}
		out = append(out, q)
	}
	return out
}

// deletes are those that this node keeps for nodes that missed them.
func (o *overview) deletes() (out []*rpc.WaitingDelete, more bool) {
	if o.hints == nil {
		return nil, false
	}
	list, more := o.hints.Deletes(maxDeletes)
	for _, w := range list {
		d, err := deletes.Describe(w.Entry)
		if err != nil {
			d.Text = "a delete that cannot be read: " + err.Error()
		}
		out = append(out, &rpc.WaitingDelete{
			Id: d.ID, Database: []byte(d.Database), Text: []byte(d.Text[:min(len(d.Text), maxQueryText)]),
			Since: w.Time, Node: w.Node,
		})
	}
	return out, more
}

// queries are those that run. Each text has maxQueryText bytes at most, or what of texts is its part.
func (o *overview) queries(texts int) (out []*rpc.RunningQuery) {
	now, running := time.Now(), o.tasks.Queries()
	most := max(maxQueryText, texts/max(len(running), 1))
	for _, q := range running {
		text := q.Query[:min(len(q.Query), most)]
		out = append(out, &rpc.RunningQuery{
			Id: q.ID, Text: []byte(text), Database: []byte(q.Database), Started: now.Add(-q.Duration).UnixNano(),
			Status: q.Status.String(), User: []byte(q.User), Duration: int64(q.Duration),
		})
	}
	return out
}

// written are the shards whose copies here are being written.
func (o *overview) written() (out []uint64) {
	lately := time.Now().Add(-writtenLately)
	for _, id := range o.store.ShardIDs() {
		sh := o.store.Shard(id)
		if sh == nil {
			continue
		}
		if at, err := sh.LastModifiedWithErr(); err == nil && at.After(lately) {
			out = append(out, id)
		}
	}
	return out
}

// sizes remembers how large the copies of this node are.
type sizes struct {
	mu           sync.Mutex
	found        time.Time
	bytes, count int64
}

func (s *sizes) of(store *tsdb.Store) (bytes, count int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.found) < sizesFor {
		return s.bytes, s.count
	}
	s.bytes, s.count = 0, 0
	for _, id := range store.ShardIDs() {
		sh := store.Shard(id)
		if sh == nil {
			continue
		}
		s.count++
		if size, err := sh.DiskSize(); err == nil {
			s.bytes += size
		} else if errors.Is(err, tsdb.ErrEngineClosed) {
			s.count--
		}
	}
	s.found = time.Now()
	return s.bytes, s.count
}
