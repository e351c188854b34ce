package metanode

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/backup"
	"concord/internal/backup/portable"
	"concord/internal/cluster"
	"concord/internal/meta"
	"concord/internal/rpc"
)

const (
	maxTarget  = 16 << 20    // bytes of POST /restore/begin, which has all metadata: more than 100,000 shards
	targetTime = time.Minute // for it to come
	chunkBytes = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// backups serves what influxd-ctl backup and restore ask: the metadata, which
// copy to read, and the files of shards in both directions.
type backups struct {
	*meta.Server
	begins *sync.Mutex // held while one restore begins: its metadata is in memory several times
}

func newBackups(s *meta.Server) backups { return backups{s, &sync.Mutex{}} }

func (b backups) routes() {
	s := shards{b.Server}
	b.HandleAdmin("GET /backup/meta", false, b.serveMeta)
	b.HandleAdmin("GET /backup/plan", false, s.serve(b.plan))
	b.HandleAdmin("GET /backup/shard", false, b.serveShard)
	b.HandleAdmin("POST /restore/begin", true, b.serveBegin)
	b.HandleAdmin("POST /restore/shard", false, s.serve(b.shard))
}

func (b backups) serveMeta(w http.ResponseWriter, _ *http.Request) {
	d, err := portable.EncodeMeta(b.State().Data)
	if err != nil {
		meta.Reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(d)
}

func (b backups) serveShard(w http.ResponseWriter, r *http.Request) {
	s := shards{b.Server}
	stream, err := b.export(r, s)
	if err != nil {
		meta.Reply(w, nil, err)
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
				meta.Reply(w, nil, errors.New(rpc.Message(err)))
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

func (b backups) export(r *http.Request, s shards) (exportStream, error) {
	sh, err := s.shard(r)
	if err != nil {
		return nil, err
	}
	n, err := s.node(r.FormValue("from"))
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
	c, err := s.client(n.TCPAddr)
	if err != nil {
		return nil, err
	}
	return c.Export(r.Context(), req)
}

// serveBegin begins one restore at a time.
func (b backups) serveBegin(w http.ResponseWriter, r *http.Request) {
	if !b.begins.TryLock() {
		meta.Reply(w, nil, errors.New("another restore is just beginning: try again"))
		return
	}
	defer b.begins.Unlock()
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(targetTime))
	var t backup.Target
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTarget)).Decode(&t)
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		err = fmt.Errorf("the metadata of the backup is larger than %d bytes", large.Limit)
	}
	control.SetReadDeadline(time.Time{})
	if err != nil {
		meta.Reply(w, nil, fmt.Errorf("restore: %w", err))
		return
	}
	out, err := b.begin(t)
	meta.Reply(w, out, err)
}

// begin makes databases, policies and shard groups for what is to be restored,
// and tells where each shard goes. It checks everything first.
func (b backups) begin(t backup.Target) (any, error) {
	data, err := portable.DecodeMeta(t.Meta)
	if err != nil {
		return nil, err
	}
	if t.NewShard != 0 {
		return b.intoShard(t)
	}
	p := &restoration{backups: b, target: t, data: data, with: map[uint64]bool{}}
	for _, id := range t.Shards {
		p.with[id] = true
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.carryOut()
}

// intoShard maps one shard of the backup to one that is there.
func (b backups) intoShard(t backup.Target) (any, error) {
	sh, ok := b.State().Shard(t.NewShard)
	if !ok {
		return nil, fmt.Errorf("shard %d does not exist", t.NewShard)
	}
	if t.Shard == 0 {
		return nil, errors.New("-newshard needs -shard")
	}
	return []backup.Mapping{b.mapping(t.Shard, sh)}, nil
}

func (b backups) mapping(old uint64, sh cluster.Shard) backup.Mapping {
	m := backup.Mapping{Shard: old, NewShard: sh.ID, Database: sh.Database, Policy: sh.RetentionPolicy}
	for _, o := range sh.Owners {
		if n, ok := b.State().DataNode(o); ok {
			m.Owners = append(m.Owners, n.TCPAddr)
		}
	}
	return m
}

// restoration is one restore of metadata.
type restoration struct {
	backups
	target   backup.Target
	data     *emeta.Data
	with     map[uint64]bool // shards of the backup that have a file
	duration *time.Duration
	queries  map[string][]emeta.ContinuousQueryInfo // by database that the restore made
	out      []backup.Mapping
}

// each calls fn for every policy that is to be restored, with its new names.
func (p *restoration) each(fn func(old emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error) error {
	t := p.target
	for _, db := range p.data.Databases {
		if t.Database != "" && db.Name != t.Database {
			continue
		}
		for _, rp := range db.RetentionPolicies {
			if t.Policy != "" && rp.Name != t.Policy {
				continue
			}
			if t.Shard != 0 && !hasShard(rp, t.Shard) {
				continue
			}
			if err := fn(db, rp, cmp.Or(t.NewDB, db.Name), cmp.Or(t.NewPolicy, rp.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func hasShard(rp emeta.RetentionPolicyInfo, id uint64) bool {
	for _, g := range rp.ShardGroups {
		for _, sh := range g.Shards {
			if sh.ID == id {
				return true
			}
		}
	}
	return false
}

// groups are the policy's groups with a shard that has a file.
func (p *restoration) groups(rp emeta.RetentionPolicyInfo) (out []emeta.ShardGroupInfo) {
	if p.target.MetaOnly {
		return nil
	}
	for _, g := range rp.ShardGroups {
		if !g.Deleted() && slices.ContainsFunc(g.Shards, func(sh emeta.ShardInfo) bool {
			return p.with[sh.ID] && (p.target.Shard == 0 || p.target.Shard == sh.ID)
		}) {
			out = append(out, g)
		}
	}
	return out
}

func (p *restoration) check() error {
	t := p.target
	if t.NewDB != "" && t.Database == "" {
		return errors.New("-newdb needs -db")
	} else if t.NewPolicy != "" && t.Policy == "" {
		return errors.New("-newrp needs -rp")
	}
	if t.Duration != "" {
		d, err := time.ParseDuration(t.Duration)
		if err != nil || d < 0 || d > 0 && d < emeta.MinRetentionPolicyDuration {
			return errors.New("-newduration: must be 0 or a duration of at least 1h")
		}
		p.duration = &d
	}
	found := false
	st := p.State()
	err := p.each(func(_ emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error {
		found = true
		have, _ := st.Data.RetentionPolicy(db, policy)
		if have == nil || len(p.groups(rp)) == 0 {
			return nil
		}
		for _, g := range have.ShardGroups {
			if !g.Deleted() {
				return fmt.Errorf("%s.%s has data already: drop it first, or restore into another name with -newdb or -newrp", db, policy)
			}
		}
		return nil
	})
	if err == nil && !found && (t.Database != "" || t.Policy != "" || t.Shard != 0) {
		err = errors.New("the backup does not have what -db, -rp and -shard ask for")
	}
	return err
}

func (p *restoration) carryOut() ([]backup.Mapping, error) {
	p.queries = map[string][]emeta.ContinuousQueryInfo{}
	if err := p.each(p.policy); err != nil {
		return nil, err
	}
	for db, queries := range p.queries {
		for _, cq := range queries {
			if _, err := p.Execute(cluster.CreateContinuousQuery{Database: db, Name: cq.Name, Query: cq.Query}); err != nil {
				return nil, fmt.Errorf("restore continuous query %s of %s: %w", cq.Name, db, err)
			}
		}
	}
	if t := p.target; t.Database == "" && t.Policy == "" && t.Shard == 0 {
		if err := p.users(); err != nil {
			return nil, err
		}
	}
	return p.out, nil
}

// policy makes a policy and the groups of its shards.
func (p *restoration) policy(old emeta.DatabaseInfo, rp emeta.RetentionPolicyInfo, db, policy string) error {
	st := p.State()
	replicas := cmp.Or(p.target.Replicas, min(rp.ReplicaN, max(1, len(st.DataNodes))))
	duration := rp.Duration
	if p.duration != nil {
		duration = *p.duration
	}
	spec := emeta.RetentionPolicySpec{Name: policy, ReplicaN: &replicas, Duration: &duration, ShardGroupDuration: rp.ShardGroupDuration}
	isDefault := old.DefaultRetentionPolicy == rp.Name
	have, _ := st.Data.RetentionPolicy(db, policy)
	var err error
	switch {
	case st.Data.Database(db) == nil:
		_, err = p.Execute(cluster.CreateDatabase{Name: db, Spec: &spec})
		p.queries[db] = nil
	case have == nil:
		_, err = p.Execute(cluster.CreateRetentionPolicy{Database: db, Spec: spec, Default: isDefault})
	case p.target.Overwrite:
		_, err = p.Execute(cluster.UpdateRetentionPolicy{Database: db, Name: policy, Default: isDefault, Update: emeta.RetentionPolicyUpdate{
			ReplicaN: &replicas, Duration: &duration, ShardGroupDuration: &rp.ShardGroupDuration,
		}})
	}
	if err != nil {
		return fmt.Errorf("restore policy %s.%s: %w", db, policy, err)
	}
	// They go with the default policy, which need not be the first one.
	if _, made := p.queries[db]; made && isDefault {
		p.queries[db] = old.ContinuousQueries
	}
	for _, sub := range rp.Subscriptions {
		_, err := p.Execute(cluster.CreateSubscription{Database: db, RetentionPolicy: policy, Name: sub.Name, Mode: sub.Mode, Destinations: sub.Destinations})
		if err != nil && !errors.Is(err, emeta.ErrSubscriptionExists) {
			return fmt.Errorf("restore subscription %s of %s.%s: %w", sub.Name, db, policy, err)
		}
	}
	return p.shards(rp, db, policy)
}

func (p *restoration) shards(rp emeta.RetentionPolicyInfo, db, policy string) error {
	groups := p.groups(rp)
	if len(groups) == 0 {
		return nil
	}
	op := cluster.RestoreShardGroups{Database: db, RetentionPolicy: policy}
	for _, g := range groups {
		r := cluster.RestoredGroup{Start: g.StartTime, End: g.EndTime, Shards: len(g.Shards)}
		if g.Truncated() {
			r.TruncatedAt = g.TruncatedAt
		}
		op.Groups = append(op.Groups, r)
	}
	made, err := p.Execute(op)
	if err != nil {
		return fmt.Errorf("restore the shards of %s.%s: %w", db, policy, err)
	}
	for i, ids := range made.([][]uint64) {
		for j, id := range ids {
			old := groups[i].Shards[j].ID
			if sh, ok := p.State().Shard(id); ok && p.with[old] && (p.target.Shard == 0 || p.target.Shard == old) {
				p.out = append(p.out, p.mapping(old, sh))
			}
		}
	}
	return nil
}

// users come with a whole backup.
func (p *restoration) users() error {
	st := p.State()
	for _, u := range p.data.Users {
		if st.Data.User(u.Name) == nil {
			if _, err := p.Execute(cluster.CreateUser{Name: u.Name, Hash: u.Hash, Admin: u.Admin}); err != nil {
				return fmt.Errorf("restore user %s: %w", u.Name, err)
			}
		} else if !p.target.Overwrite {
			continue
		} else if _, err := p.Execute(cluster.UpdateUser{Name: u.Name, Hash: u.Hash}); err != nil {
			return fmt.Errorf("restore user %s: %w", u.Name, err)
		}
		for db, priv := range u.Privileges {
			if p.State().Data.Database(db) == nil {
				continue
			}
			if _, err := p.Execute(cluster.SetPrivilege{User: u.Name, Database: db, Privilege: priv}); err != nil {
				return fmt.Errorf("restore the privileges of user %s: %w", u.Name, err)
			}
		}
	}
	return nil
}

// shard sends the body, a tar, to all owners of a shard. An owner that fails gets the
// shard by anti-entropy, as long as one has it.
func (b backups) shard(r *http.Request) (any, error) {
	r.Form = r.URL.Query() // the body is the tar, and no form, whatever its type says
	s := shards{b.Server}
	sh, err := s.shard(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var owners []*upload
	failed := map[string]error{}
	for _, id := range sh.Owners {
		n, ok := b.State().DataNode(id)
		if !ok {
			continue
		}
		u, err := newUpload(ctx, s, n.TCPAddr, sh)
		if err != nil {
			failed[n.TCPAddr] = err
			continue
		}
		owners = append(owners, u)
	}
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
	out := backup.Restored{Owners: []string{}, Failed: []string{}}
	for _, u := range owners {
		if _, err := u.stream.CloseAndRecv(); err != nil {
			failed[u.addr] = err
			continue
		}
		out.Owners = append(out.Owners, u.addr)
	}
	var reasons []string
	for addr, err := range failed {
		out.Failed = append(out.Failed, addr)
		reasons = append(reasons, addr+": "+rpc.Message(err))
	}
	slices.Sort(out.Failed)
	slices.Sort(reasons)
	if len(out.Owners) == 0 {
		return nil, fmt.Errorf("no owner took shard %d: %s", sh.ID, strings.Join(reasons, "; "))
	}
	return out, nil
}

// eachChunk calls fn with what comes, in chunks, while fn returns true. A body that was
// cut ends with io.ErrUnexpectedEOF, which is why io.ReadFull, whose last chunk ends so, is not for it.
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
	addr   string
	stream interface {
		Send(*rpc.ImportChunk) error
		CloseAndRecv() (*rpc.ImportResponse, error)
	}
}

func newUpload(ctx context.Context, s shards, addr string, sh cluster.Shard) (*upload, error) {
	c, err := s.client(addr)
	if err != nil {
		return nil, err
	}
	stream, err := c.Import(ctx)
	if err != nil {
		return nil, err
	}
	return &upload{addr, stream}, stream.Send(&rpc.ImportChunk{ShardId: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy})
}

// sendAll sends to all at the same time, and returns those that took it.
func sendAll(to []*upload, failed map[string]error, m *rpc.ImportChunk) (took []*upload) {
	send := func(_ context.Context, u *upload) error { return u.stream.Send(m) } // it ends with the stream
	for _, a := range rpc.TellAll(context.Background(), to, 0, send) {
		u := a.Node
		if a.Err == nil {
			took = append(took, u)
			continue
		}
		failed[u.addr] = a.Err
		if _, err := u.stream.CloseAndRecv(); err != nil {
			failed[u.addr] = err // it says why
		}
	}
	return took
}
