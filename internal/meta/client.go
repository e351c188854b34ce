package meta

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/durable"
	"concord/internal/trust"
)

// ErrNotJoined is what a data node without a cluster answers to a change.
var ErrNotJoined = errors.New("this data node is in no cluster yet: run influxd-ctl add-data")

const (
	identityFile = "node.json"
	stateFile    = "cluster.state"
	engineDir    = "cache" // the engine's own copy; apart, so that no meta.db of a single node is ever overwritten

	joinWait   = 5 * time.Second // for the first state after Join
	catchUp    = 5 * time.Second // for this node's copy to show a change made through it
	backOff    = 50 * time.Millisecond
	maxBackOff = time.Second
)

// Client is a data node's view of the metadata: a copy on disk and in memory
// that follows the meta nodes by long poll. Reads come from the copy, through
// the embedded engine client, and so work with the meta nodes down. Changes go
// to the leader of the meta nodes, whatever the copy says, and return once the copy shows them. What the copy lacks is
// asked of the leader before it counts as unknown.
type Client struct {
	*emeta.Client // read cache; every method that changes something is overridden

	dir   string
	log   *zap.Logger
	http  metaHTTP
	auth  *authCache
	state atomic.Pointer[cluster.State]

	// Late, when set before Open, holds up what the long poll brings until it returns: with it tests make a node late.
	Late func(ctx context.Context)

	loaded *cluster.State         // set by Open
	fresh  atomic.Pointer[string] // the identity that this node gets when it joins
	who    atomic.Pointer[identity]
	lease  leaseCache
	ids    atomic.Pointer[shardIDs]

	taking   sync.Mutex    // one newer state is taken over at a time
	fetching chan struct{} // holds one token while the meta nodes are asked for a state
	behind   failedCatchUp
	asks     refresher

	mu      sync.Mutex
	changed chan struct{} // closed when state is replaced

	life     sync.Mutex // one of Open, Join, Leave, Close at a time
	cancel   context.CancelFunc
	followed chan struct{} // closed when the following goroutine has ended
}

// identity is this node's place in a cluster; the zero value is in none.
type identity struct {
	NodeID      uint64   `json:"node-id"`
	ClusterID   uint64   `json:"cluster-id"`
	MetaServers []string `json:"meta-servers"`
	Identity    string   `json:"identity,omitempty"` // names its folders; empty when it joined with an earlier version
}

// NewClient returns a client that keeps its files in dir.
func NewClient(dir string, log *zap.Logger) *Client {
	if log == nil {
		log = zap.NewNop()
	}
	c := &Client{
		Client: emeta.NewClient(&emeta.Config{Dir: filepath.Join(dir, engineDir), RetentionAutoCreate: true}),
		dir:    dir, log: log.With(zap.String("service", "metaclient")), changed: make(chan struct{}), auth: newAuthCache(),
		fetching: make(chan struct{}, 1),
	}
	c.loaded = cluster.NewState()
	c.renew()
	c.state.Store(c.loaded)
	c.who.Store(&identity{})
	return c
}

// Secure sets TLS to the meta nodes and the shared secret; call it before Open.
func (c *Client) Secure(tls *tlsconfig.TLSConfigManager, secret trust.Secret) {
	c.http.use(tls, secret)
}

// Open loads identity and state from disk and, in a cluster, starts to follow
// the meta nodes. A damaged copy of the state is fetched anew.
func (c *Client) Open() error {
	c.life.Lock()
	defer c.life.Unlock()
	if err := os.MkdirAll(filepath.Join(c.dir, engineDir), 0o750); err != nil {
		return err
	}
	var who identity
	b, err := os.ReadFile(filepath.Join(c.dir, identityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if err := json.Unmarshal(b, &who); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(c.dir, identityFile), err)
	}
	if who.NodeID == 0 || who.ClusterID == 0 || len(who.MetaServers) == 0 {
		return fmt.Errorf("%s is incomplete: remove it and run influxd-ctl add-data again", filepath.Join(c.dir, identityFile))
	}
	c.who.Store(&who)
	if b, err := os.ReadFile(filepath.Join(c.dir, stateFile)); err == nil {
		st := new(cluster.State)
		if err := st.UnmarshalBinary(b); err != nil {
			c.log.Warn("The copy of the metadata is damaged: fetching it anew", zap.Error(err))
		} else if st.Data.ClusterID == who.ClusterID {
			if err := c.publish(st); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.loaded = c.State()
	c.follow()
	return nil
}

// Loaded is the state as it was on disk at Open: what this node knew when it stopped.
func (c *Client) Loaded() *cluster.State { return c.loaded }

// Close stops following and waits for it.
func (c *Client) Close() error {
	c.life.Lock()
	defer c.life.Unlock()
	c.unfollow()
	c.http.close()
	return nil
}

// NodeID is this node's ID, 0 before it joined.
func (c *Client) NodeID() uint64 { return c.who.Load().NodeID }

// ClusterID is the cluster's ID, 0 before this node joined.
func (c *Client) ClusterID() uint64 { return c.who.Load().ClusterID }

// Identity names this node's folders among all that ever were in a cluster: the one that it joined with, or will. It
// is empty for a node that joined with an earlier version, before Name.
func (c *Client) Identity() string {
	if who := c.who.Load(); who.NodeID != 0 {
		return who.Identity
	}
	return *c.fresh.Load()
}

// Name gives a node that joined with an earlier version its identity, durably.
func (c *Client) Name() error {
	c.life.Lock()
	defer c.life.Unlock()
	who := *c.who.Load()
	if who.NodeID == 0 || who.Identity != "" {
		return nil
	}
	c.taking.Lock() // who takes a state over stores who, too
	defer c.taking.Unlock()
	who = *c.who.Load()
	who.Identity = *c.fresh.Load()
	return c.store(&who)
}

// store keeps who this node is.
func (c *Client) store(who *identity) error {
	b, err := json.Marshal(who)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.dir, identityFile), b, 0o600); err != nil {
		return fmt.Errorf("store identity: %w", err)
	}
	c.who.Store(who)
	return nil
}

// renew makes the identity for the next time that this node joins.
func (c *Client) renew() {
	fresh := rand.Text()
	c.fresh.Store(&fresh)
}

// MetaServers are the meta nodes' HTTP addresses.
func (c *Client) MetaServers() []string { return c.who.Load().MetaServers }

// Now is what time it is for the leader of the meta nodes, which decides for the cluster. known is false until this
// node has heard of a leader; it is this node's own time then.
func (c *Client) Now() (now time.Time, known bool) { return c.http.now() }

// State is the copy of the cluster's state: never nil, shared, read-only.
func (c *Client) State() *cluster.State { return c.state.Load() }

// DataNode returns a data node by its ID.
func (c *Client) DataNode(id uint64) (cluster.Node, bool) { return c.State().DataNode(id) }

// DataNodes lists the data nodes by ascending ID: shared, read-only.
func (c *Client) DataNodes() []cluster.Node { return c.State().DataNodes }

// Shard returns a shard by its ID.
func (c *Client) Shard(id uint64) (cluster.Shard, bool) { return c.State().Shard(id) }

// Changed returns a channel that is closed at the next change of the state.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Join makes this node a member, durably, and waits for the first state.
// Repeating it is harmless; a member of another cluster refuses.
func (c *Client) Join(nodeID, clusterID uint64, servers []string) error {
	c.life.Lock()
	defer c.life.Unlock()
	if nodeID == 0 || clusterID == 0 || len(servers) == 0 {
		return errors.New("join needs a node id, a cluster id and meta servers")
	}
	if old := c.ClusterID(); old != 0 && old != clusterID {
		return fmt.Errorf("this data node belongs to another cluster (%x)", old)
	}
	who := &identity{NodeID: nodeID, ClusterID: clusterID, MetaServers: servers, Identity: c.Identity()}
	c.unfollow()
	c.taking.Lock()
	err := c.store(who)
	c.taking.Unlock()
	c.follow()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), joinWait)
	defer cancel()
	_ = c.Refresh() // one of the meta nodes may hang, and be the one that is followed
	err = c.wait(ctx, func(s *cluster.State) bool { _, ok := s.DataNode(nodeID); return ok })
	if err != nil {
		return fmt.Errorf("no metadata from %v within %s", servers, joinWait)
	}
	return nil
}

// Leave makes this node forget its cluster.
func (c *Client) Leave() error {
	c.life.Lock()
	defer c.life.Unlock()
	c.unfollow()
	var errs []error
	for _, f := range []string{identityFile, stateFile} {
		if err := os.Remove(filepath.Join(c.dir, f)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(append(errs, durable.SyncDir(c.dir))...); err != nil {
		c.follow()
		return err
	}
	c.renew()
	c.taking.Lock()
	defer c.taking.Unlock()
	c.who.Store(&identity{})
	return c.publish(cluster.NewState())
}

// publish makes st what reads see.
func (c *Client) publish(st *cluster.State) error {
	if err := c.Client.SetData(st.Data); err != nil {
		return fmt.Errorf("store metadata: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Store(st)
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// wait returns when the state fulfils ok.
func (c *Client) wait(ctx context.Context, ok func(*cluster.State) bool) error {
	for {
		changed := c.Changed()
		if ok(c.State()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Client) follow() {
	if c.NodeID() == 0 || c.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.followed = cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		c.followLoop(ctx)
	}(c.followed)
}

func (c *Client) unfollow() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	<-c.followed
	c.cancel = nil
}

// followLoop keeps the copy up to date until ctx ends. A server that fails is
// left for the next one, with a growing pause; one line is logged when the
// servers are lost and one when they are back.
func (c *Client) followLoop(ctx context.Context) {
	pause, lost := backOff, false
	for ctx.Err() == nil {
		who := c.who.Load()
		server := c.http.order(who.MetaServers)[0]
		err := c.poll(ctx, server, who.ClusterID)
		if err == nil {
			if lost {
				c.log.Info("Following the metadata again", zap.String("meta", server))
			}
			pause, lost = backOff, false
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !lost {
			c.log.Warn("Cannot follow the metadata: serving the copy", zap.String("meta", server), zap.Error(err))
		}
		lost = true
		c.http.pass(who.MetaServers, server)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxBackOff)
	}
}

// poll asks server once for a newer state, and stores it.
func (c *Client) poll(ctx context.Context, server string, clusterID uint64) error {
	b, err := c.http.state(ctx, server, c.State().Index)
	if err != nil || b == nil {
		return err
	}
	if c.Late != nil {
		c.Late(ctx)
	}
	return c.take(b, clusterID)
}

// take makes an encoded state the copy, unless that is as new already.
func (c *Client) take(b []byte, clusterID uint64) error {
	st := new(cluster.State)
	if err := st.UnmarshalBinary(b); err != nil {
		return err
	}
	if st.Data.ClusterID != clusterID {
		return fmt.Errorf("the answer is of a meta node of another cluster (%x)", st.Data.ClusterID)
	}
	c.taking.Lock()
	defer c.taking.Unlock()
	if st.Index <= c.State().Index || c.ClusterID() != clusterID {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(c.dir, stateFile), b, 0o600); err != nil {
		return fmt.Errorf("store metadata: %w", err)
	}
	if err := c.followNodes(st); err != nil {
		return fmt.Errorf("store the meta nodes to follow: %w", err)
	}
	return c.publish(st)
}

// followNodes takes over which meta nodes there are.
func (c *Client) followNodes(st *cluster.State) error {
	who := *c.who.Load()
	servers := make([]string, len(st.MetaNodes))
	for i, n := range st.MetaNodes {
		servers[i] = n.HTTPAddr
	}
	if len(servers) == 0 || slices.Equal(servers, who.MetaServers) {
		return nil
	}
	who.MetaServers = servers
	return c.store(&who)
}

// Execute commits a change on the meta nodes and waits until this node's copy
// shows it. The engine's errors come back as its own sentinels, once the copy shows why.
func (c *Client) Execute(op cluster.Op) error {
	who := c.who.Load()
	if who.NodeID == 0 {
		return ErrNotJoined
	}
	cmd, err := cluster.NewCommand(op)
	if err != nil {
		return err
	}
	index, err := c.http.execute(who.MetaServers, cmd)
	if index == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), catchUp)
	defer cancel()
	late := c.fetchTo(ctx, index)
	if late != nil {
		late = c.wait(ctx, func(s *cluster.State) bool { return s.Index >= index })
	}
	if late != nil && err == nil {
		return fmt.Errorf("%s is committed, but this node has not seen it within %s", cmd.Type, catchUp)
	}
	return err
}
