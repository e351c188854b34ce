package distquery

import (
	"context"
	"sync"

	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxdb/tsdb/cursors"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/rpc"
)

// ReadSeries streams whole series. Only the question itself can be at fault;
// any other error may be this node's alone, and another owner is asked.
func (s *Server) ReadSeries(r *rpc.ReadSeriesRequest, out rpc.Query_ReadSeriesServer) (err error) {
	defer s.guard(&err)
	predicate := &datatypes.Predicate{}
	if err := proto.Unmarshal(r.Predicate, predicate); err != nil {
		return status.Errorf(codes.InvalidArgument, "malformed predicate: %v", err)
	}
	read, err := newSeriesRead(predicate, r.MinTime, r.MaxTime)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	ctx, end := s.begin(out.Context())
	defer end(&err)
	to := &blockSender{signed: signed[rpc.ReadSeriesChunk]{to: out.Send}, size: s.chunk}
	defer beat(s.beat, to.sign)()
	held, not := s.readable(out.Context(), r.ShardIds, false)
	if err := to.send(&rpc.ReadSeriesChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	pack := packer{emit: to.block}
	if err := read.run(ctx, s.store, held, pack.add); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return status.Error(codes.Unavailable, err.Error())
	}
	return to.flush()
}

// packer makes blocks of samples. A block names its series when it is not that
// of the block before.
type packer struct {
	emit func(b *rpc.ReadSeriesChunk_Block, a *cursors.FloatArray) error // a is what is in b, or nil

	row   *seriesRow
	field string
	times []int64
}

func (p *packer) add(s samples) error {
	b := &rpc.ReadSeriesChunk_Block{ShardId: s.shard, DataType: int32(s.typ)}
	if s.row != p.row || s.row.field != p.field {
		p.row, p.field = s.row, s.row.field
		b.Series = &rpc.ReadSeriesChunk_Series{Measurement: s.row.name, Field: []byte(s.row.field)}
		for _, t := range s.row.tags {
			b.Series.Tags = append(b.Series.Tags, &rpc.ReadSeriesChunk_Tag{Key: t.Key, Value: t.Value})
		}
	}
	if s.values != nil {
		p.times = append(p.times[:0], s.values.Timestamps...) // the encoder works in place
		var err error
		if b.Points, err = tsm1.EncodeFloatArrayBlock(&cursors.FloatArray{Timestamps: p.times, Values: s.values.Values},
			nil); err != nil {
			return err
		}
	}
	return p.emit(b, s.values)
}

// signed is a stream to another node, on which this node also gives signs of life. These are empty messages.
type signed[C any] struct {
	to func(*C) error // takes one at a time

	mu   sync.Mutex
	sent bool // something, since the last sign
}

func (s *signed[C]) send(c *C) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = true
	return s.to(c)
}

// sign tells that this node works on, when nothing else did.
func (s *signed[C]) sign() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sent {
		err = s.to(new(C))
	}
	s.sent = false
	return err
}

// blockSender sends blocks, many in a chunk, and signs of life.
type blockSender struct {
	signed[rpc.ReadSeriesChunk]
	size int // bytes from which on a chunk is sent

	chunk rpc.ReadSeriesChunk
	bytes int
}

// block is called by one goroutine, and so is flush.
func (s *blockSender) block(b *rpc.ReadSeriesChunk_Block, _ *cursors.FloatArray) error {
	s.chunk.Blocks = append(s.chunk.Blocks, b)
	if s.bytes += proto.Size(b); s.bytes < s.size {
		return nil
	}
	return s.flush()
}

func (s *blockSender) flush() error {
	if len(s.chunk.Blocks) == 0 {
		return nil
	}
	c := &rpc.ReadSeriesChunk{Blocks: s.chunk.Blocks}
	s.chunk.Blocks, s.bytes = nil, 0
	return s.send(c)
}
