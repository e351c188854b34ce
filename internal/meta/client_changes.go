package meta

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/influxdata/influxdb"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/cluster"
)

// This file overrides what the engine's client changes locally.

// CreateDatabase creates a database with the default policy, or returns the one that exists.
func (c *Client) CreateDatabase(name string) (*emeta.DatabaseInfo, error) {
	return c.database(name, c.Execute(cluster.CreateDatabase{Name: name}))
}

// CreateDatabaseWithRetentionPolicy creates a database with a default policy.
func (c *Client) CreateDatabaseWithRetentionPolicy(name string, spec *emeta.RetentionPolicySpec) (*emeta.DatabaseInfo, error) {
	if spec == nil {
		return nil, errors.New("CreateDatabaseWithRetentionPolicy called with nil spec")
	}
	return c.database(name, c.Execute(cluster.CreateDatabase{Name: name, Spec: spec}))
}

func (c *Client) database(name string, err error) (*emeta.DatabaseInfo, error) {
	if err != nil {
		return nil, err
	}
	if db := c.Client.Database(name); db != nil {
		return db, nil
	}
	return nil, influxdb.ErrDatabaseNotFound(name) // dropped again meanwhile
}

// DropDatabase drops a database.
func (c *Client) DropDatabase(name string) error { return c.Execute(cluster.DropDatabase{Name: name}) }

// CreateRetentionPolicy creates a policy.
func (c *Client) CreateRetentionPolicy(database string, spec *emeta.RetentionPolicySpec, makeDefault bool) (*emeta.RetentionPolicyInfo, error) {
	if err := c.Execute(cluster.CreateRetentionPolicy{Database: database, Spec: *spec, Default: makeDefault}); err != nil {
		return nil, err
	}
	name := spec.NewRetentionPolicyInfo().Name
	rpi, err := c.Client.RetentionPolicy(database, name)
	if err == nil && rpi == nil {
		err = influxdb.ErrRetentionPolicyNotFound(name)
	}
	return rpi, err
}

// UpdateRetentionPolicy changes a policy.
func (c *Client) UpdateRetentionPolicy(database, name string, rpu *emeta.RetentionPolicyUpdate, makeDefault bool) error {
	return c.Execute(cluster.UpdateRetentionPolicy{Database: database, Name: name, Update: *rpu, Default: makeDefault})
}

// DropRetentionPolicy drops a policy.
func (c *Client) DropRetentionPolicy(database, name string) error {
	return c.Execute(cluster.DropRetentionPolicy{Database: database, Name: name})
}

// CreateContinuousQuery saves a continuous query.
func (c *Client) CreateContinuousQuery(database, name, query string) error {
	return c.Execute(cluster.CreateContinuousQuery{Database: database, Name: name, Query: query})
}

// DropContinuousQuery removes a continuous query.
func (c *Client) DropContinuousQuery(database, name string) error {
	return c.Execute(cluster.DropContinuousQuery{Database: database, Name: name})
}

// CreateSubscription adds a subscription.
func (c *Client) CreateSubscription(database, rp, name, mode string, destinations []string) error {
	return c.Execute(cluster.CreateSubscription{Database: database, RetentionPolicy: rp, Name: name, Mode: mode, Destinations: destinations})
}

// DropSubscription removes a subscription.
func (c *Client) DropSubscription(database, rp, name string) error {
	return c.Execute(cluster.DropSubscription{Database: database, RetentionPolicy: rp, Name: name})
}

// CreateShardGroup returns the group that covers t, making it if there is none.
func (c *Client) CreateShardGroup(database, policy string, t time.Time) (*emeta.ShardGroupInfo, error) {
	if g, err := c.State().Data.ShardGroupByTimestamp(database, policy, t); err == nil && g != nil {
		return g, nil
	}
	if err := c.Execute(cluster.CreateShardGroup{Database: database, RetentionPolicy: policy, Time: t}); err != nil {
		return nil, err
	}
	g, err := c.State().Data.ShardGroupByTimestamp(database, policy, t)
	if err == nil && g == nil {
		err = emeta.ErrShardGroupNotFound
	}
	return g, err
}

// DeleteShardGroup marks a shard group as deleted.
func (c *Client) DeleteShardGroup(database, policy string, id uint64) error {
	return c.Execute(cluster.DeleteShardGroup{Database: database, RetentionPolicy: policy, ID: id, Time: time.Now()})
}

// PrecreateShardGroups creates the successors of groups that end between from and to.
func (c *Client) PrecreateShardGroups(from, to time.Time) error {
	return c.Execute(cluster.PrecreateShardGroups{From: from, To: to})
}

// PruneShardGroups forgets groups that were deleted long ago.
func (c *Client) PruneShardGroups() error {
	return c.Execute(cluster.PruneShardGroups{Before: time.Now().Add(emeta.ShardGroupDeletedExpiration)})
}

// TruncateShardGroups ends the groups that could take points after t.
func (c *Client) TruncateShardGroups(t time.Time) error {
	return c.Execute(cluster.TruncateShardGroups{Time: t})
}

// DropShard forgets a shard on all nodes.
func (c *Client) DropShard(id uint64) error {
	return c.Execute(cluster.DropShard{ID: id, Time: time.Now()})
}

// AddShardOwner records a copy of a shard.
func (c *Client) AddShardOwner(id, nodeID uint64) error {
	return c.Execute(cluster.AddShardOwner{ID: id, NodeID: nodeID})
}

// RemoveShardOwner records that a copy of a shard is gone.
func (c *Client) RemoveShardOwner(id, nodeID uint64) error {
	return c.Execute(cluster.RemoveShardOwner{ID: id, NodeID: nodeID, Time: time.Now()})
}

// SetData is refused: metadata is not a data node's to replace.
func (c *Client) SetData(*emeta.Data) error {
	return errors.New("a data node cannot replace the cluster's metadata")
}

// Load is refused as SetData is.
func (c *Client) Load() error { return c.SetData(nil) }

// askedLeaseAgain is when a lease that another node has is asked for again.
const askedLeaseAgain = emeta.DefaultLeaseDuration / 12

// AcquireLease asks the meta nodes' leader for a lease, so that one node alone
// runs continuous queries. An answer is used again for half of its time.
func (c *Client) AcquireLease(name string) (*emeta.Lease, error) {
	who := c.who.Load()
	if who.NodeID == 0 {
		return nil, ErrNotJoined
	}
	c.lease.Lock()
	defer c.lease.Unlock()
	now := time.Now()
	if have := c.lease.m[name]; now.Before(have.until) {
		return have.lease, have.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	params := url.Values{"name": {name}, "node_id": {strconv.FormatUint(who.NodeID, 10)}}
	b, err := anyOf(ctx, &c.http, who.MetaServers, func(ctx context.Context, server string) ([]byte, error) {
		return c.http.ask(ctx, http.MethodGet, server, "/lease", params)
	})
	l := &emeta.Lease{}
	if err == nil {
		err = json.Unmarshal(b, l)
	}
	if err == nil {
		// By the leader's clock, which it was granted by. Counted from before the request.
		leader, _ := c.Now()
		c.lease.keep(name, l, nil, now.Add(l.Expiration.Sub(leader)/2))
		return l, nil
	}
	var f *refusal
	if errors.As(err, &f) && f.code == http.StatusConflict {
		c.lease.keep(name, nil, err, now.Add(askedLeaseAgain))
	}
	return nil, err
}

// leaseCache has the last answers.
type leaseCache struct {
	sync.Mutex
	m map[string]cachedLease
}

type cachedLease struct {
	lease *emeta.Lease
	err   error
	until time.Time
}

func (l *leaseCache) keep(name string, lease *emeta.Lease, err error, until time.Time) {
	if l.m == nil {
		l.m = make(map[string]cachedLease)
	}
	l.m[name] = cachedLease{lease, err, until}
}

// CreateUser adds a user; an equal one that exists is returned.
func (c *Client) CreateUser(name, password string, admin bool) (emeta.User, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return nil, err
	}
	err = c.Execute(cluster.CreateUser{Name: name, Hash: string(hash), Admin: admin})
	if err != nil && !errors.Is(err, emeta.ErrUserExists) {
		return nil, err
	}
	u := c.State().User(name)
	switch {
	case u == nil:
		return nil, emeta.ErrUserNotFound // dropped again meanwhile
	case err != nil && (u.Admin != admin || bcrypt.CompareHashAndPassword([]byte(u.Hash), []byte(password)) != nil):
		return nil, err
	}
	return u, nil
}

// UpdateUser changes a password.
func (c *Client) UpdateUser(name, password string) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return err
	}
	return c.Execute(cluster.UpdateUser{Name: name, Hash: string(hash)})
}

// DropUser removes a user.
func (c *Client) DropUser(name string) error { return c.Execute(cluster.DropUser{Name: name}) }

// SetPrivilege sets what a user may do with a database.
func (c *Client) SetPrivilege(username, database string, p influxql.Privilege) error {
	return c.Execute(cluster.SetPrivilege{User: username, Database: database, Privilege: p})
}

// SetAdminPrivilege makes a user an administrator, or no longer one.
func (c *Client) SetAdminPrivilege(username string, admin bool) error {
	return c.Execute(cluster.SetAdminPrivilege{User: username, Admin: admin})
}

// Authenticate checks a password against the user's current hash.
func (c *Client) Authenticate(username, password string) (emeta.User, error) {
	u := c.UserInfo(username)
	if err := c.auth.check(u, password); err != nil {
		return nil, err
	}
	return u, nil
}

// User returns a user, with the privileges of its roles.
func (c *Client) User(name string) (emeta.User, error) {
	if u := c.UserInfo(name); u != nil {
		return u, nil
	}
	return nil, emeta.ErrUserNotFound
}
