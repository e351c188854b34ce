package distquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/restrict"
	"concord/internal/rpc"
)

// schemaRead reads a list of the schema of several nodes while they make it. Lists are ascending, so that another owner
// can go on where a node failed.
type schemaRead struct {
	ctx    context.Context // ends all streams
	others *owned
	ask    listQuestion
	grow   func(int64) error // takes memory
}

// listQuestion asks a node for a list. The answer lives as long as ctx.
type listQuestion func(ctx context.Context, p peer, ids []uint64) (listChunks, error)

// listChunks returns the next part of a list, which is empty with a sign of life, and io.EOF after the last one. The
// first part says which shards the node did not read.
type listChunks func() ([]entry, passed, error)

// schemaQuestion is which list is read.
type schemaQuestion struct {
	shards  []uint64
	allowed *restrict.Filter
	local   func(ctx context.Context, mine []uint64) schemaList // of this node
	ask     listQuestion
}

// read reads the list of shards, of this node and of others, and passes it to see. It ends early when see returns an
// error, which may be errEnough.
func (s *Schema) read(ctx context.Context, q schemaQuestion, see func(entry) error) error {
	ctx, cancel := context.WithCancel(s.context(ctx))
	defer cancel()
	others, mine, theirs := s.split(q.shards, q.allowed)
	r := &schemaRead{ctx: ctx, others: others, ask: q.ask, grow: s.grow}
	lists, err := r.open(theirs)
	if err != nil {
		return err
	}
	if len(mine) > 0 {
		lists = append(lists, q.local(ctx, mine))
	}
	for e, err := range mergeLists(lists) {
		if err == nil {
			err = see(e)
		}
		if err == errEnough {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open asks the owners of shards.
func (r *schemaRead) open(ids []uint64) (lists []schemaList, err error) {
	var mu sync.Mutex
	err = r.others.open(r.ctx, ids, func(asking context.Context, p peer, ids []uint64) (passed, error) {
		n, not, err := r.openNode(asking, p, ids)
		if err != nil {
			return passed{}, err
		}
		mu.Lock()
		defer mu.Unlock()
		lists = append(lists, n.list())
		return not, nil
	})
	return lists, err
}

// openNode asks one node, and waits until it says which shards it reads. While it waits also asking can end it.
func (r *schemaRead) openNode(asking context.Context, p peer, ids []uint64) (*nodeList, passed, error) {
	if err := r.grow(costOfStream); err != nil {
		return nil, passed{}, err
	}
	n := &nodeList{read: r, from: p}
	n.ctx, n.cancel = context.WithCancelCause(r.ctx)
	defer context.AfterFunc(asking, func() { n.cancel(asking.Err()) })()
	var (
		not passed
		err error
	)
	if n.chunks, err = r.ask(n.ctx, p, ids); err == nil {
		n.first, not, err = n.receive()
	}
	if err == io.EOF {
		err = errors.New("it closed the answer without sending anything")
	}
	if err != nil {
		n.cancel(nil)
		return nil, passed{}, err
	}
	for _, id := range ids {
		if !not.has(id) {
			n.ids = append(n.ids, id)
		}
	}
	return n, not, nil
}

// nodeList is the list that one node sends.
type nodeList struct {
	read   *schemaRead
	from   peer
	ids    []uint64 // shards that it reads
	ctx    context.Context
	cancel context.CancelCauseFunc
	chunks listChunks
	first  []entry
}

func (n *nodeList) receive() (part []entry, not passed, err error) {
	part, err = listen(n.ctx, n.cancel, askTimeout, func() (part []entry, err error) {
		part, not, err = n.chunks()
		return part, err
	})
	return part, not, err
}

// listen waits for what a node sends. A node that gives no sign of life for some time has failed, and cancel ends ctx,
// which is that of the stream.
func listen[C any](
	ctx context.Context, cancel context.CancelCauseFunc, silence time.Duration, receive func() (C, error),
) (C, error) {
	silent := fmt.Errorf("%w for %s", errSilent, silence)
	t := time.AfterFunc(silence, func() { cancel(silent) })
	c, err := receive()
	t.Stop()
	if err != nil && context.Cause(ctx) == silent {
		err = silent
	}
	return c, err
}

func (n *nodeList) list() schemaList {
	return listOf(func(emit func(entry) error) error {
		defer n.cancel(nil)
		var last *entry
		for part := n.first; ; {
			for i := range part {
				if last != nil && part[i].compare(last) <= 0 {
					return fmt.Errorf("data node %s sends a list that is not in order", n.from.addr)
				}
				last = &part[i]
				if err := emit(*last); err != nil {
					return err
				}
			}
			var err error
			part, _, err = n.receive()
			switch {
			case err == io.EOF:
				return nil
			case n.read.ctx.Err() != nil:
				return context.Cause(n.read.ctx)
			case err != nil:
				return n.goOn(err, last, emit)
			}
		}
	})
}

// goOn has other owners go on after the last entry of this node, which failed.
func (n *nodeList) goOn(why error, last *entry, emit func(entry) error) error {
	others := n.read.others
	err := why
	if retryable(why) {
		err = others.fail(n.from.id, why)
	}
	if err != nil {
		return others.final(n.from.id, err)
	}
	lists, err := n.read.open(n.ids)
	if err != nil {
		return err
	}
	for e, err := range mergeLists(lists) {
		if err != nil {
			return err
		}
		if last != nil && e.compare(last) <= 0 {
			continue
		}
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

// tagValueChunks asks a node for tag values.
func tagValueChunks(ctx context.Context, p peer, req *rpc.SchemaRequest) (listChunks, error) {
	chunks, err := p.TagValues(ctx, req)
	if err != nil {
		return nil, err
	}
	return func() (part []entry, not passed, err error) {
		c, err := chunks.Recv()
		if err != nil {
			return nil, not, err
		}
		for _, m := range c.Measurements {
			measurement := string(m.Measurement)
			for _, kv := range m.Values {
				e := entry{measurement: measurement}
				e.Key, e.Value = string(kv.Key), string(kv.Value)
				part = append(part, e)
			}
		}
		return part, passed{c.Missing, c.Unfit}, nil
	}, nil
}

// chunks asks a node for the measurements that the questions of the plan select. One of a former build answers all at
// once.
func (p *namesPlan) chunks(ctx context.Context, node peer, ids []uint64, most int) (listChunks, error) {
	req := p.request(node, ids)
	req.Most = uint64(most)
	chunks, err := node.Measurements(ctx, req)
	if err != nil {
		return nil, err
	}
	former := false
	return func() ([]entry, passed, error) {
		if former {
			return nil, passed{}, io.EOF
		}
		c, err := chunks.Recv()
		if status.Code(err) == codes.Unimplemented {
			former = true
			return p.askFormer(ctx, node, ids)
		}
		if err != nil {
			return nil, passed{}, err
		}
		part, err := measurementsOf(c, len(p.questions))
		return part, passed{c.Missing, c.Unfit}, err
	}, nil
}

var errMeasurements = errors.New("malformed list of measurements")

// measurementsOf reads a part of a list of the measurements that some questions select.
func measurementsOf(c *rpc.MeasurementsChunk, questions int) (part []entry, err error) {
	if questions > 1 && len(c.Selected) != len(c.Names) {
		return nil, errMeasurements
	}
	for i, name := range c.Names {
		e := entry{measurement: string(name)}
		if questions > 1 {
			e.selected = c.Selected[i].By
			for _, by := range e.selected {
				if int64(by) >= int64(questions) {
					return nil, errMeasurements
				}
			}
		}
		part = append(part, e)
	}
	return part, nil
}
