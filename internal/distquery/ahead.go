package distquery

import (
	"context"
	"sync"

	"github.com/influxdata/influxql"
	"google.golang.org/protobuf/proto"

	"concord/internal/budget"
	"concord/internal/rpc"
)

// A node that is asked for the schema of a statement also gets the statement's text. It plans the statement with its
// own schema, and begins to send points right after the schema. When the engine here asks for just these iterators,
// the stream is there already, and the statement has taken one round trip. Otherwise the stream is closed, and the
// node is asked for what is needed. That happens when fields or their types differ between nodes.

// maxTextAhead bounds the text of a statement that is sent with the question for its schema, in bytes. Reading a long
// one twice costs more than a round trip.
const maxTextAhead = 16 << 10

// maxColumnsAhead bounds the columns of such a statement: to plan a wide one takes longer than a round trip, too, and
// the asking node waits for the schema meanwhile.
const maxColumnsAhead = 4096

// textAhead returns the text of a statement that nodes may begin, empty for others: it reads points of one
// measurement and writes none. SLIMIT and SOFFSET take a round trip of their own.
func textAhead(stmt *influxql.SelectStatement) string {
	if stmt.Target != nil || len(stmt.Sources) != 1 || stmt.SLimit != 0 || stmt.SOffset != 0 {
		return ""
	}
	if mm, ok := stmt.Sources[0].(*influxql.Measurement); !ok || mm.SystemIterator != "" {
		return ""
	}
	text := stmt.String()
	if len(text) > maxTextAhead {
		return ""
	}
	return text
}

// ahead are streams that nodes began before the engine asked for iterators.
type ahead struct {
	mu      sync.Mutex
	streams map[uint64]begun // by node
}

// begun is a stream that answers a request.
type begun struct {
	req    *rpc.IteratorRequest
	stream *stream
}

// ask asks a node for a schema, and keeps the stream of points that follows it.
func (a *ahead) ask(
	asking context.Context, e *ShardMapper, p peer, req *rpc.SelectRequest,
) (*rpc.FieldDimensionsResponse, error) {
	statement := budget.With(e.context(context.Background()), e.share)
	s, err := startStream(statement, asking, e.silence, p, func(ctx context.Context) (rpc.Query_SelectClient, error) {
		return p.Select(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	c, err := s.await(asking, func(c *rpc.IteratorChunk) bool { return c.Schema != nil })
	if err != nil {
		return nil, err
	}
	if c.Begun == nil {
		s.Close()
		return c.Schema, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams == nil {
		a.streams = make(map[uint64]begun)
	}
	if old, twice := a.streams[p.id]; twice {
		old.stream.Close()
	}
	a.streams[p.id] = begun{c.Begun, s}
	return c.Schema, nil
}

// take returns the stream with which a node answers a request, nil when it began no such stream.
func (a *ahead) take(node uint64, req *rpc.IteratorRequest) *stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, ok := a.streams[node]
	if !ok {
		return nil
	}
	delete(a.streams, node)
	if !proto.Equal(b.req, req) {
		b.stream.Close()
		return nil
	}
	return b.stream
}

// close ends the streams that nobody took.
func (a *ahead) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.streams {
		b.stream.Close()
	}
	a.streams = nil
}
