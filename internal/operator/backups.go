package operator

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"concord/internal/backup"
	"concord/internal/backup/portable"
	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/rpc"
)

const chunkBytes = 256 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// backups serves what influxd-ctl backup reads, and what restore sends after it has begun: the metadata, and the files
// of shards in both directions.
type backups struct{ nodes *dataNodes }

func (b *backups) routes() []server.Route {
	return []server.Route{
		// As the plan: the metadata of a follower may lack databases and shards.
		{Pattern: "GET /backup/meta", OnLeader: true, Handler: b.serveMeta},
		{Pattern: "GET /backup/shard", Handler: b.serveShard},
		{Pattern: "POST /restore/shard", Handler: answer(b.restoreShard)},
	}
}

// serveMeta answers with all metadata.
func (b *backups) serveMeta(w http.ResponseWriter, _ *http.Request) {
	d, err := portable.EncodeMeta(b.nodes.state().Data)
	if err != nil {
		server.Reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(d)
}

// serveShard answers with the files of a shard, as a data node streams them. An answer that is not whole is broken off.
func (b *backups) serveShard(w http.ResponseWriter, r *http.Request) {
	stream, err := b.export(r)
	if err != nil {
		server.Reply(w, nil, err)
		return
	}
	var n uint64
	var sum uint32
	wrote := false
	for {
		m, err := stream.Recv()
		if err == nil && m.Last && (m.Bytes != n || m.Checksum != sum) {
			err = errors.New("the stream of the shard is damaged")
		}
		if err != nil {
			if !wrote {
				server.Reply(w, nil, errors.New(rpc.Message(err)))
				return
			}
			panic(http.ErrAbortHandler) // the client must not take it for whole
		}
		if m.Last {
			return
		}
		wrote = true
		n += uint64(len(m.Data))
		sum = crc32.Update(sum, castagnoli, m.Data)
		if _, err := w.Write(m.Data); err != nil {
			return
		}
	}
}

type exportStream interface {
	Recv() (*rpc.ExportChunk, error)
}

// export begins the stream of a shard from the data node that the request names.
func (b *backups) export(r *http.Request) (exportStream, error) {
	sh, err := b.nodes.shard(r)
	if err != nil {
		return nil, err
	}
	n, err := b.nodes.node(r.FormValue("from"))
	if err != nil {
		return nil, err
	}
	req := &rpc.ExportRequest{ShardId: sh.ID}
	if v := r.FormValue("incomplete"); v != "" {
		if req.Incomplete, err = strconv.ParseBool(v); err != nil {
			return nil, errors.New("incomplete: must be true or false")
		}
	}
	for key, to := range map[string]*int64{"start": &req.Start, "end": &req.End} {
		if v := r.FormValue(key); v != "" {
			if *to, err = strconv.ParseInt(v, 10, 64); err != nil {
				return nil, fmt.Errorf("%s: must be nanoseconds", key)
			}
		}
	}
	c, err := b.nodes.client(n.TCPAddr)
	if err != nil {
		return nil, err
	}
	return c.Export(r.Context(), req)
}

// restoreShard sends the body, a tar, to all owners of a shard. An owner that fails gets the shard by anti-entropy, as
// long as one has it. Until then its copy does not count as whole: those that have the shard remember that for it.
func (b *backups) restoreShard(r *http.Request) (any, error) {
	r.Form = r.URL.Query() // the body is the tar, and no form, whatever its type says
	sh, err := b.nodes.shard(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	owners, failed := b.uploads(ctx, sh)
	var total uint64
	var sum uint32
	err = eachChunk(r.Body, func(data []byte) bool {
		total += uint64(len(data))
		sum = crc32.Update(sum, castagnoli, data)
		owners = sendAll(owners, failed, &rpc.ImportChunk{Data: data})
		return len(owners) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("the file did not come whole: %w", err)
	}
	owners = sendAll(owners, failed, &rpc.ImportChunk{Last: true, Bytes: total, Checksum: sum})
	return b.end(r.Context(), sh.ID, owners, failed)
}

// failures are why data nodes did not take a shard, by node.
type failures map[uint64]error

// uploads begins an upload to each owner of a shard. failed says to which owners there is none.
func (b *backups) uploads(ctx context.Context, sh cluster.Shard) (to []*upload, failed failures) {
	failed = failures{}
	for _, id := range sh.Owners {
		n, ok := b.nodes.state().DataNode(id)
		if !ok {
			continue
		}
		u, err := newUpload(ctx, b.nodes, n, sh)
		if err != nil {
			failed[n.ID] = err
			continue
		}
		to = append(to, u)
	}
	return to, failed
}

// end ends uploads, and says which owners have the shard. It is an error when none has, and when none of those
// remembers that the others lack it.
func (b *backups) end(ctx context.Context, shard uint64, uploads []*upload, failed failures) (any, error) {
	out := backup.Restored{Owners: []string{}, Failed: []string{}}
	var took []cluster.Node
	for _, u := range uploads {
		if _, err := u.stream.CloseAndRecv(); err != nil {
			failed[u.node.ID] = err
			continue
		}
		took = append(took, u.node)
		out.Owners = append(out.Owners, u.node.TCPAddr)
	}
	var reasons []string
	for id, err := range failed {
		addr := b.nodes.addr(id)
		if addr == "" { // it left the cluster meanwhile
			delete(failed, id)
			continue
		}
		out.Failed = append(out.Failed, addr)
		reasons = append(reasons, addr+": "+rpc.Message(err))
	}
	slices.Sort(out.Failed)
	slices.Sort(reasons)
	if len(took) == 0 {
		return nil, fmt.Errorf("no owner took shard %d: %s", shard, strings.Join(reasons, "; "))
	}
	if err := b.noteLacking(ctx, shard, took, failed); err != nil {
		return nil, fmt.Errorf("some owners did not take shard %d (%s), and none of the others could note that (%w): "+
			"they would answer as if it were empty. Drop what was restored, and restore it again",
			shard, strings.Join(reasons, "; "), err)
	}
	return out, nil
}

// noteLacking makes the owners that took a shard remember that the others failed. A failed owner may be down, and takes
// the shard for a new and empty one when it is back. It is an error when no owner could.
func (b *backups) noteLacking(ctx context.Context, shard uint64, took []cluster.Node, failed failures) error {
	if len(failed) == 0 {
		return nil
	}
	req := &rpc.NoteLackingRequest{ShardId: shard, Nodes: slices.Sorted(maps.Keys(failed))}
	note := func(ctx context.Context, n cluster.Node) error {
		c, err := b.nodes.client(n.TCPAddr)
		if err == nil {
			_, err = c.NoteLacking(ctx, req)
		}
		return err
	}
	var reasons []string
	// Also when the client that restores goes away: the shard is there.
	for _, a := range rpc.TellAll(context.WithoutCancel(ctx), took, answerTimeout, note) {
		if a.Err == nil {
			return nil
		}
		reasons = append(reasons, a.Node.TCPAddr+": "+rpc.Message(a.Err))
	}
	return errors.New(strings.Join(reasons, "; "))
}

// eachChunk calls fn with what comes, in chunks, while fn returns true. It does not use io.ReadFull, which returns
// io.ErrUnexpectedEOF for a last chunk that is short: a body that was cut returns that, too.
func eachChunk(body io.Reader, fn func(data []byte) bool) error {
	buf := make([]byte, chunkBytes)
	for {
		n := 0
		var err error
		for n < len(buf) && err == nil {
			var m int
			m, err = body.Read(buf[n:])
			n += m
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n > 0 && !fn(buf[:n]) || err != nil {
			return nil
		}
	}
}

// upload is the way to one owner.
type upload struct {
	node   cluster.Node
	stream interface {
		Send(*rpc.ImportChunk) error
		CloseAndRecv() (*rpc.ImportResponse, error)
	}
}

func newUpload(ctx context.Context, nodes *dataNodes, to cluster.Node, sh cluster.Shard) (*upload, error) {
	c, err := nodes.client(to.TCPAddr)
	if err != nil {
		return nil, err
	}
	stream, err := c.Import(ctx)
	if err != nil {
		return nil, err
	}
	return &upload{to, stream}, stream.Send(&rpc.ImportChunk{
		ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy,
	})
}

// sendAll sends to all at the same time, and returns those that took it.
func sendAll(to []*upload, failed failures, m *rpc.ImportChunk) (took []*upload) {
	send := func(_ context.Context, u *upload) error { return u.stream.Send(m) } // it ends with the stream
	for _, a := range rpc.TellAll(context.Background(), to, 0, send) {
		u := a.Node
		if a.Err == nil {
			took = append(took, u)
			continue
		}
		failed[u.node.ID] = a.Err
		if _, err := u.stream.CloseAndRecv(); err != nil {
			failed[u.node.ID] = err // it says why
		}
	}
	return took
}
