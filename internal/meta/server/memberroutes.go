package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// This file has what the routes read from a request to change nodes. MetaMembers and DataMembers do it.

// nodeAnswer is the answer to a request that changes a node.
func nodeAnswer(n cluster.Node, err error) (any, error) { return wire.Node(n), err }

func boolValue(r *http.Request, key string) (bool, error) {
	v := r.FormValue(key)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, errors.New(key + ": must be true or false")
	}
	return b, nil
}

func (a *API) addMeta(r *http.Request) (any, error) {
	addr := r.FormValue("addr")
	if addr == "" {
		addr = a.server.httpAddr
	}
	return nodeAnswer(a.deps.Meta.AddMeta(r.Context(), addr))
}

func (a *API) checkRemoveMeta(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	return nodeAnswer(a.deps.Meta.checkRemoveMeta(r.Context(), r.FormValue("addr"), force))
}

// serveRemoveMeta answers from the next leader when this one is to be removed.
func (a *API) serveRemoveMeta(w http.ResponseWriter, r *http.Request) {
	force, err := boolValue(r, "force")
	if err != nil {
		Reply(w, nil, err)
		return
	}
	n, err := a.deps.Meta.RemoveMeta(r.Context(), r.FormValue("addr"), force)
	if errors.Is(err, errNoLeader) {
		ctx, cancel := context.WithTimeout(r.Context(), leaderTimeout)
		defer cancel()
		until(ctx, func() bool { _, err := a.server.leaderHTTP(); return err == nil && !a.server.Leads() })
		toLeader(a.server, func(w http.ResponseWriter, _ *http.Request) { Reply(w, nil, errNoLeader) }).ServeHTTP(w, r)
		return
	}
	Reply(w, wire.Node(n), err)
}

// serveReset makes this node forget its cluster, once that has removed it.
func (a *API) serveReset(w http.ResponseWriter, r *http.Request) {
	Reply(w, struct{}{}, a.deps.Meta.forget(r.FormValue("cluster")))
}

func (a *API) addData(r *http.Request) (any, error) {
	return nodeAnswer(a.deps.Data.AddData(r.Context(), r.FormValue("addr")))
}

func (a *API) updateData(r *http.Request) (any, error) {
	return nodeAnswer(a.deps.Data.UpdateData(r.Context(), r.FormValue("old"), r.FormValue("new")))
}

func (a *API) checkRemoveData(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	could, _, err := a.deps.Data.removableData(r.Context(), r.FormValue("addr"), force)
	return could.answer(), err
}

func (a *API) removeData(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	removed, err := a.deps.Data.RemoveData(r.Context(), r.FormValue("addr"), force)
	return removed.answer(), err
}

func (a *API) truncateShards(r *http.Request) (any, error) {
	delay, err := time.ParseDuration(r.FormValue("delay"))
	if err != nil {
		return nil, errors.New("delay: must be a duration such as 1m")
	}
	return struct{}{}, a.truncate(delay)
}

// truncate ends the shards that are written to now, at now + delay.
func (a *API) truncate(delay time.Duration) error {
	if delay < 0 {
		return errors.New("delay: must not be negative")
	}
	if a.server.State().Data.ClusterID == 0 {
		return ErrNotInitialised
	}
	_, err := a.server.Execute(cluster.TruncateShardGroups{Time: a.server.deps.Now().Add(delay)})
	return err
}

func (a *API) nodeLabels(r *http.Request) (any, error) {
	set := map[string]string{}
	if v := r.FormValue("set"); v != "" {
		if err := json.Unmarshal([]byte(v), &set); err != nil {
			return nil, errors.New("set: must be a JSON object of strings")
		}
	}
	var remove []string
	if v := r.FormValue("delete"); v != "" {
		if err := json.Unmarshal([]byte(v), &remove); err != nil {
			return nil, errors.New("delete: must be a JSON list of strings")
		}
	}
	return nodeAnswer(a.labelNode(r.FormValue("node"), set, remove))
}

// labelNode changes the labels of a node. It is named by a data node's TCP address, a meta node's HTTP or Raft address,
// or its ID.
func (a *API) labelNode(node string, set map[string]string, remove []string) (cluster.Node, error) {
	st := a.server.State()
	for _, nodes := range [][]cluster.Node{st.DataNodes, st.MetaNodes} {
		for _, n := range nodes {
			if node == n.TCPAddr || node == n.HTTPAddr || node == fmt.Sprint(n.ID) {
				return a.server.executeNode(cluster.SetNodeLabels{ID: n.ID, Set: set, Delete: remove})
			}
		}
	}
	return cluster.Node{}, fmt.Errorf("node %q does not exist: give its id or an address as influxd-ctl show prints it", node)
}
