package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/cluster"
)

const (
	// every is the time between two snapshots while a page is open, and busy while a repair runs.
	every = 2 * time.Second
	busy  = time.Second
	// fresh is for how long a snapshot answers requests for the whole state.
	fresh = time.Second
	// collectTimeout bounds a snapshot.
	collectTimeout = 5 * time.Second
	// signOfLife is the time after which a stream says something, although nothing changed.
	signOfLife = 15 * time.Second
	// maxStreams bounds the pages that are open at a node.
	maxStreams = 500
	// lag is how many messages may wait for one page. One that is further behind is closed, and begins anew.
	lag = 16
)

// errTooMany is for one page too many.
var errTooMany = errors.New("too many pages are open at this node: close some, or open the page at another node")

// encoded is a State, with each value as JSON.
type encoded map[string]map[string]json.RawMessage

// hub makes snapshots while a page is open, and sends what changed.
type hub struct {
	deps   Deps
	source *source

	collecting sync.Mutex // held while nodes are asked
	last       *snapshot  // guarded by collecting

	mu      sync.Mutex
	closed  bool
	streams map[*stream]bool
	groups  map[string]*group // of streams whose users have the same rights
	stop    context.CancelFunc
	kick    chan struct{} // holds one signal: make a snapshot now
	loops   sync.WaitGroup
}

// group is what streams whose users have the same rights have been sent.
type group struct{ sent encoded }

// stream is an open page.
type stream struct {
	session  *login
	messages chan []byte
	group    string
}

func newHub(d Deps) *hub {
	return &hub{
		deps: d, source: newSource(d), streams: make(map[*stream]bool), groups: make(map[string]*group),
		kick: make(chan struct{}, 1),
	}
}

// close ends all streams, and returns when nothing runs any more.
func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	for s := range h.streams {
		h.drop(s)
	}
	h.mu.Unlock()
	h.loops.Wait()
}

// now makes a snapshot, or returns one that was made lately.
func (h *hub) now(ctx context.Context, age time.Duration) (*snapshot, error) {
	h.collecting.Lock()
	defer h.collecting.Unlock()
	if h.last != nil && time.Since(h.last.at) < age {
		return h.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	s, err := h.source.collect(ctx)
	if err != nil {
		return nil, err
	}
	h.last = s
	return s, nil
}

// soon makes a snapshot at once: something was changed.
func (h *hub) soon() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// open begins a stream. Its first message is the whole state.
func (h *hub) open(ctx context.Context, l *login) (*stream, error) {
	snap, err := h.now(ctx, fresh)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.New("this node is stopping: open the page at another node")
	}
	if len(h.streams) >= maxStreams {
		return nil, errTooMany
	}
	s := &stream{session: l, messages: make(chan []byte, lag)}
	h.streams[s] = true
	if err := h.join(s, snap, l.user()); err != nil {
		delete(h.streams, s)
		return nil, err
	}
	if h.stop == nil {
		var ctx context.Context
		ctx, h.stop = context.WithCancel(context.Background())
		h.loops.Go(func() { h.run(ctx) })
	}
	return s, nil
}

// join puts a stream into the group of its user, and sends it all that the group has. mu must be held.
func (h *hub) join(s *stream, snap *snapshot, user emeta.User) error {
	s.group = rights(user, snap.state)
	g := h.groups[s.group]
	if g == nil {
		e, err := encode(build(snap, h.deps, user))
		if err != nil {
			return err
		}
		g = &group{sent: e}
		h.groups[s.group] = g
	}
	whole, err := json.Marshal(g.sent)
	if err != nil {
		return err
	}
	h.send(s, message("state", whole))
	return nil
}

// leave ends a stream.
func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(s)
}

// drop ends a stream. mu must be held.
func (h *hub) drop(s *stream) {
	if !h.streams[s] {
		return
	}
	delete(h.streams, s)
	close(s.messages)
	if !h.alone(s.group) {
		delete(h.groups, s.group)
	}
	if len(h.streams) == 0 && h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// alone reports whether some stream is in a group. mu must be held.
func (h *hub) alone(group string) bool {
	for s := range h.streams {
		if s.group == group {
			return true
		}
	}
	return false
}

// send queues a message. A stream that is too slow ends, and its page begins anew. mu must be held.
func (h *hub) send(s *stream, m []byte) {
	select {
	case s.messages <- m:
	default:
		h.drop(s)
	}
}

// run makes snapshots until ctx ends.
func (h *hub) run(ctx context.Context) {
	wait := time.NewTimer(every)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.kick:
		case <-wait.C:
		}
		snap, err := h.now(ctx, 0)
		next := every
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			h.deps.Log.Debug("Cannot tell the open pages how the cluster is", zap.Error(err))
		default:
			h.tell(snap)
			if len(snap.entropy.Processing) > 0 {
				next = busy
			}
		}
		wait.Reset(next)
	}
}

// tell sends each page what changed for it.
func (h *hub) tell(snap *snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	members := make(map[string][]*stream)
	users := make(map[string]emeta.User)
	for s := range h.streams {
		user, ok := s.session.renewed()
		if !ok { // logged out, or the user is gone
			h.send(s, message("login", []byte("{}")))
			h.drop(s)
			continue
		}
		if key := rights(user, snap.state); key != s.group { // other rights: begin anew
			h.drop(s)
			continue
		}
		members[s.group] = append(members[s.group], s)
		users[s.group] = user
	}
	for key, streams := range members {
		g := h.groups[key]
		next, err := encode(build(snap, h.deps, users[key]))
		if err != nil {
			h.deps.Log.Warn("Cannot encode the state of the page", zap.Error(err))
			continue
		}
		patch := changes(g.sent, next)
		g.sent = next
		if patch == nil {
			continue
		}
		m := message("patch", patch)
		for _, s := range streams {
			h.send(s, m)
		}
	}
}

// rights names what a user may see: users with the same name for it get the same bytes.
func rights(user emeta.User, state *cluster.State) string {
	if isAdmin(user) {
		return "admin"
	}
	out := "reader"
	for _, db := range state.Data.Databases {
		if state.MaySee(user, db.Name) {
			out += "\x00" + db.Name
		}
	}
	return out
}

// message is an event of a stream.
func message(event string, data []byte) []byte {
	out := make([]byte, 0, len(event)+len(data)+16)
	out = append(out, "event: "...)
	out = append(out, event...)
	out = append(out, "\ndata: "...)
	out = append(out, data...) // JSON has no line breaks
	return append(out, "\n\n"...)
}

// encode encodes each value by itself.
func encode(s State) (encoded, error) {
	out := make(encoded)
	var err error
	out["summary"], err = fields(s.Summary)
	return out, errors.Join(err,
		section(out, "attention", s.Attention), section(out, "nodes", s.Nodes), section(out, "shards", s.Shards),
		section(out, "repairs", s.Repairs), section(out, "copies", s.Copies), section(out, "queries", s.Queries),
		section(out, "meta", s.Meta), section(out, "policies", s.Policies), section(out, "events", s.Events),
		section(out, "settings", s.Settings), section(out, "deletes", s.Deletes))
}

// section encodes a section; a nil one is for a user who may not see it.
func section[T any](out encoded, name string, values map[string]T) error {
	if values == nil {
		return nil
	}
	m := make(map[string]json.RawMessage, len(values))
	for k, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		m[k] = b
	}
	out[name] = m
	return nil
}

// fields encodes the fields of a struct, each by itself.
func fields(v any) (out map[string]json.RawMessage, err error) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, err
}

// changes is what makes next out of before, as JSON; nil for nothing.
func changes(before, next encoded) []byte {
	patch := make(encoded)
	put := func(section, key string, v json.RawMessage) {
		if patch[section] == nil {
			patch[section] = make(map[string]json.RawMessage)
		}
		patch[section][key] = v
	}
	for name, values := range next {
		old := before[name]
		for k, v := range values {
			if !bytes.Equal(old[k], v) {
				put(name, k, v)
			}
		}
		for k := range old {
			if _, ok := values[k]; !ok {
				put(name, k, json.RawMessage("null"))
			}
		}
	}
	if len(patch) == 0 {
		return nil
	}
	b, err := json.Marshal(patch)
	if err != nil {
		return nil // raw messages that were encoded here are valid
	}
	return b
}
