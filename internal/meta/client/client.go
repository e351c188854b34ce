package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"
	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/meta/httpclient"
	"concord/internal/meta/password"
	"concord/internal/meta/passwordhash"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
	"concord/internal/trust"
	"concord/internal/whois"
)

// ErrNotJoined is what a data node without a cluster answers to a change.
var ErrNotJoined = errors.New("this data node is in no cluster yet: run influxd-ctl add-data")

// engineDir has the engine's own copy. It is a folder of its own, so that the meta.db of a single node is never
// overwritten.
const engineDir = "cache"

// Deps is what a client is made of.
type Deps struct {
	Dir    string                      // has the copy, and who this node is
	Log    *zap.Logger                 // nil for none
	TLS    *tlsconfig.TLSConfigManager // to meta nodes; nil for plain HTTP
	Secret trust.Secret                // the shared secret of the cluster
	Hash   passwordhash.Kind           // of new passwords

	Protocol trust.Protocol // the versions and ciphers of TLS to LDAP servers

	// Late holds up what the long poll brings until it returns; nil for not at all. With it tests make a node late.
	Late func(ctx context.Context)
	// Cut reports whether no meta node can be reached; nil for never. With it tests cut the links to them.
	Cut func() bool
}

// Client is a data node's view of the metadata. It implements what the engine asks of its own metadata client, which is
// many methods. So it has few of its own and embeds its parts. A method of a part comes before one of the engine's
// client, which is embedded one level down.
type Client struct {
	engine // must not change anything: each of its methods that would is one of a part, too
	*member
	*stateCopy
	*catchUp
	*refresher
	*sender
	*databases
	*shards
	*users
	*leases

	LDAP *ldap.Users // whom LDAP servers know

	nodes    *metaNodes
	follower *follower
	life     sync.Mutex // held while this node joins, leaves or closes
}

// engine is the engine's client, on the copy. What would replace the copy is refused: metadata is not a data node's to
// replace.
type engine struct{ *emeta.Client }

var errReplace = errors.New("a data node cannot replace the cluster's metadata")

// Open is refused: it would load the metadata of a single node.
func (engine) Open() error { return errReplace }

// SetData is refused.
func (engine) SetData(*emeta.Data) error { return errReplace }

// Load is refused.
func (engine) Load() error { return errReplace }

// Open loads from disk who this node is and its copy of the state. In a cluster it starts to follow the meta nodes. A
// damaged copy of the state is fetched anew.
func Open(d Deps) (*Client, error) {
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	log := d.Log.With(zap.String("service", "metaclient"))
	if err := os.MkdirAll(filepath.Join(d.Dir, engineDir), 0o750); err != nil {
		return nil, err
	}
	member, err := loadMember(d.Dir)
	if err != nil {
		return nil, err
	}
	engine := engine{emeta.NewClient(&emeta.Config{Dir: filepath.Join(d.Dir, engineDir), RetentionAutoCreate: true})}
	copied, err := loadCopy(d.Dir, member, engine, log)
	if err != nil {
		return nil, err
	}
	nodes := &metaNodes{http: httpclient.New(d.TLS, d.Secret), cut: d.Cut}
	late := d.Late
	if late == nil {
		late = func(context.Context) {}
	}
	catchUp := &catchUp{copied: copied, nodes: nodes, fetching: make(chan struct{}, 1)}
	refresher := &refresher{copied: copied, nodes: nodes, catchUp: catchUp}
	sender := &sender{copied: copied, nodes: nodes, catchUp: catchUp}
	directory := ldap.NewUsers(ldap.Deps{State: copied.State, TLS: d.Protocol, Log: d.Log})
	c := &Client{
		LDAP:   directory,
		engine: engine, member: member, stateCopy: copied, catchUp: catchUp, refresher: refresher, sender: sender,
		databases: &databases{engine: engine, refresher: refresher, sender: sender},
		shards:    &shards{copied: copied, sender: sender},
		users: &users{
			engine: engine, copied: copied, refresher: refresher, sender: sender, passwords: password.NewChecker(),
			hash: d.Hash, ldap: directory,
		},
		leases:   &leases{member: member, nodes: nodes, last: make(map[string]lastLease)},
		nodes:    nodes,
		follower: &follower{copied: copied, nodes: nodes, late: late, log: log},
	}
	c.follower.start()
	return c, nil
}

// Close stops following and waits for it.
func (c *Client) Close() error {
	c.life.Lock()
	defer c.life.Unlock()
	c.follower.stop()
	c.nodes.http.Close()
	return c.LDAP.Close()
}

// Engine is the engine's own client on the copy, for what of the engine needs that type.
func (c *Client) Engine() *emeta.Client { return c.engine.Client }

// Now is what time it is for the leader of the meta nodes, which decides for the cluster. known is false until this
// node has heard of a leader; it is this node's own time then.
func (c *Client) Now() (now time.Time, known bool) { return c.nodes.now() }

// Name gives a node that joined with an earlier version its identity, durably.
func (c *Client) Name() error {
	c.life.Lock()
	defer c.life.Unlock()
	return c.stateCopy.name()
}

// Join makes this node a member, durably, and waits for the first state. Repeating it is harmless. A member of another
// cluster refuses.
func (c *Client) Join(nodeID, clusterID uint64, servers []string) error {
	c.life.Lock()
	defer c.life.Unlock()
	if nodeID == 0 || clusterID == 0 || len(servers) == 0 {
		return errors.New("join needs a node id, a cluster id and meta servers")
	}
	if old := c.ClusterID(); old != 0 && old != clusterID {
		return fmt.Errorf("this data node belongs to another cluster (%x)", old)
	}
	c.follower.stop()
	err := c.stateCopy.join(&identity{
		NodeID: nodeID, ClusterID: clusterID, MetaServers: servers, Identity: c.Identity(),
	})
	c.follower.start()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), wire.JoinTimeout)
	defer cancel()
	_ = c.Refresh() // one of the meta nodes may hang, and be the one that is followed
	err = c.wait(ctx, func(s *cluster.State) bool { _, ok := s.DataNode(nodeID); return ok })
	if err != nil {
		return fmt.Errorf("no metadata from %v within %s", servers, wire.JoinTimeout)
	}
	return nil
}

// Leave makes this node forget its cluster.
func (c *Client) Leave() error {
	c.life.Lock()
	defer c.life.Unlock()
	c.follower.stop()
	if err := c.stateCopy.remove(); err != nil {
		c.follower.start()
		return err
	}
	return c.stateCopy.leave()
}

// AskRaft asks all meta nodes for their parts in the consensus. seen says of which process, by HTTP address, which
// events the caller has.
func (c *Client) AskRaft(
	ctx context.Context, timeout time.Duration, seen func(addr string) (process, after uint64),
) []rpc.Answer[cluster.Node, wire.Raft] {
	return rpc.AskAll(ctx, c.State().MetaNodes, timeout, func(ctx context.Context, n cluster.Node) (wire.Raft, error) {
		process, after := seen(n.HTTPAddr)
		b, err := c.nodes.ask(ctx, http.MethodGet, n.HTTPAddr, "/raft", url.Values{
			"process": {strconv.FormatUint(process, 10)}, "after": {strconv.FormatUint(after, 10)},
		})
		var out wire.Raft
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			return out, fmt.Errorf("meta node %s: %w", n.HTTPAddr, err)
		}
		return out, nil
	})
}

// Operate sends a meta node what influxd-ctl sends it, and returns the body of the answer, which the caller closes. The
// next meta node is asked when one cannot be reached, and for a request without a body, which can be sent again, also
// when one is cut off from the leader.
func (c *Client) Operate(
	ctx context.Context, method, path string, params url.Values, body io.Reader,
) (answer io.ReadCloser, err error) {
	err = ErrNotJoined
	for _, server := range c.nodes.order(c.MetaServers()) {
		answer, err = c.nodes.http.Stream(ctx, method, server, path+"?"+params.Encode(), body)
		var refusal *httpclient.Refusal
		if !errors.As(err, &refusal) || !refusal.TryNext(body == nil) {
			break
		}
	}
	return answer, httpclient.ExplainRefusal(err)
}

// AskPlace asks a meta node what it knows of this data node's place.
func (c *Client) AskPlace(ctx context.Context, server string) (report whois.Report, err error) {
	who := c.who.Load()
	params := url.Values{
		"node": {strconv.FormatUint(who.NodeID, 10)}, "cluster": {strconv.FormatUint(who.ClusterID, 10)},
	}
	if end, ok := ctx.Deadline(); ok {
		params.Set("wait", time.Until(end).String())
	}
	b, err := c.nodes.ask(ctx, http.MethodGet, server, "/who-is", params)
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return report, fmt.Errorf("answer of meta node %s: %w", server, err)
	}
	return report, nil
}
