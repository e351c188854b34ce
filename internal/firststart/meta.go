package firststart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"concord/internal/meta/wire"
)

// Meta is the first start of a meta node.
//
// A node joins the cluster that any of the meta nodes in Join is in. Where none is, the first one of Join begins a
// cluster. It does so only when all others say that they are in none: a node that lost its folder must not begin a
// second cluster beside that of the others.
type Meta struct {
	Join      []string
	Addr      string // HTTP address of this node, as Join has it
	ClusterID func() uint64
	Begin     func(context.Context) error // begins a cluster of this node alone
	Ask       Ask
	Log       *zap.Logger
	Pause     time.Duration // between two attempts; 0 for a second
}

// Run returns when the node is in a cluster, or when ctx ends. It may be called for a node that is in one.
func (m Meta) Run(ctx context.Context) {
	if len(m.Join) == 0 || m.ClusterID() != 0 {
		return
	}
	if m.Pause == 0 {
		m.Pause = pause
	}
	if retry(ctx, m.Log, m.Pause, "Waiting to join a cluster", m.join) == nil {
		m.Log.Info("Joined the cluster that INFLUXDB_JOIN names")
	}
}

// join makes one attempt.
func (m Meta) join(ctx context.Context) error {
	if m.ClusterID() != 0 {
		return nil
	}
	var errs []error
	for _, addr := range m.Join {
		if addr == m.Addr {
			continue
		}
		id, err := m.clusterOf(ctx, addr)
		if err == nil && id != 0 {
			// The leader of that cluster may have been this node, before it lost its folder: then the request comes
			// back here, and must not begin a cluster.
			params := url.Values{"addr": {m.Addr}, "cluster": {fmt.Sprint(id)}}
			_, err = m.Ask(ctx, http.MethodPost, addr, "/add-meta", params)
			return err
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return oneLine(errs)
	}
	if m.Join[0] != m.Addr {
		return fmt.Errorf("%s, which begins the cluster, is in none yet; this meta node is %s", m.Join[0], m.Addr)
	}
	return m.Begin(ctx)
}

// clusterOf asks a meta node which cluster it is in, 0 for none.
func (m Meta) clusterOf(ctx context.Context, addr string) (uint64, error) {
	b, err := m.Ask(ctx, http.MethodGet, addr, "/identity", nil)
	if err != nil {
		return 0, err
	}
	var who wire.Identity
	if json.Unmarshal(b, &who) != nil || who.RaftID == "" {
		return 0, errors.New(addr + " is not a meta node")
	}
	return who.ClusterID, nil
}
