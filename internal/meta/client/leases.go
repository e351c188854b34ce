package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/meta/httpclient"
)

// askedLeaseAgain is when a lease that another node has is asked for again.
const askedLeaseAgain = emeta.DefaultLeaseDuration / 12

// leases asks for leases, and keeps the last answers.
type leases struct {
	member *member
	nodes  *metaNodes

	mu   sync.Mutex // held while a lease is asked for
	last map[string]lastLease
}

// lastLease is the last answer about one lease.
type lastLease struct {
	lease *emeta.Lease
	err   error
	until time.Time // when it is asked for again
}

// AcquireLease asks the meta nodes' leader for a lease, so that one node alone
// runs continuous queries. An answer is used again for half of its time.
func (l *leases) AcquireLease(name string) (*emeta.Lease, error) {
	who := l.member.who.Load()
	if who.NodeID == 0 {
		return nil, ErrNotJoined
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last := l.last[name]; now.Before(last.until) {
		return last.lease, last.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	params := url.Values{"name": {name}, "node_id": {strconv.FormatUint(who.NodeID, 10)}}
	b, err := anyOf(ctx, l.nodes, who.MetaServers, func(ctx context.Context, server string) ([]byte, error) {
		return l.nodes.ask(ctx, http.MethodGet, server, "/lease", params)
	})
	lease := &emeta.Lease{}
	if err == nil {
		err = json.Unmarshal(b, lease)
	}
	if err == nil {
		// By the leader's clock, which it was granted by. Counted from before the request.
		leader, _ := l.nodes.now()
		l.last[name] = lastLease{lease: lease, until: now.Add(lease.Expiration.Sub(leader) / 2)}
		return lease, nil
	}
	var f *httpclient.Refusal
	if errors.As(err, &f) && f.Code == http.StatusConflict {
		l.last[name] = lastLease{err: err, until: now.Add(askedLeaseAgain)}
	}
	return nil, err
}
