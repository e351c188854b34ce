package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/zeebo/xxh3"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// hintedWrites are the messages out of hinted handoff that this node is writing. Their sender sends a message again
// when it gets no answer in time. If the first one is still being written then, it is not decoded and written once
// more: it may have megabytes, and a node that is slow would get slower with each one. The second one waits for the
// first one, and has its answer.
type hintedWrites struct{ group singleflight.Group }

// do writes a message, or waits for the same one that is being written. The write goes on when its sender has left.
func (h *hintedWrites) do(
	ctx context.Context, r *rpc.WriteShardRequest, write func() (*rpc.WriteShardResponse, error),
) (*rpc.WriteShardResponse, error) {
	written := h.group.DoChan(contentOf(r), func() (any, error) { return write() })
	select {
	case w := <-written:
		return w.Val.(*rpc.WriteShardResponse), w.Err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// contentOf is a hash of the shard, the versions and the points of a message.
func contentOf(r *rpc.WriteShardRequest) string {
	h := xxh3.New()
	var b []byte
	number := func(n uint64) {
		b = binary.BigEndian.AppendUint64(b[:0], n)
		h.Write(b)
	}
	number(r.SenderNode)
	number(r.ShardId)
	number(r.Version)
	for _, s := range r.Spans {
		number(s.Version)
		number(uint64(s.Points))
	}
	for _, p := range r.Points {
		number(uint64(len(p)))
		h.Write(p)
	}
	sum := h.Sum128().Bytes()
	return string(sum[:])
}

// maxPatience is how many times WriteTimeout a message out of hinted handoff may take.
const maxPatience = 8

// patience is how long messages out of hinted handoff may take: WriteTimeout, and twice as long after each one that
// took longer. A point with very many fields takes an owner that is slow longer than WriteTimeout each time.
type patience struct {
	mu sync.Mutex
	m  map[lane]int // WriteTimeout is multiplied by it; 1 for those that are missing
}

// of returns how long the next message may take.
func (p *patience) of(l lane, writeTimeout time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return writeTimeout * time.Duration(max(1, p.m[l]))
}

// note is told how a message ended.
func (p *patience) note(l lane, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(err, coordinator.ErrTimeout) {
		delete(p.m, l)
		return
	}
	if p.m == nil {
		p.m = make(map[lane]int)
	}
	p.m[l] = min(2*max(1, p.m[l]), maxPatience)
}
