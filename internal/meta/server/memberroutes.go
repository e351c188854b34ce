package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// memberRoutes are the routes that change which nodes and shards there are.
type memberRoutes struct {
	server *Server
	meta   *MetaMembers
	data   *DataMembers
}

// routes adds the routes. With GET, those that remove a node say whether that could be done, and change nothing.
func (m *memberRoutes) routes(r router) {
	members := needs(cluster.AddRemoveNode)
	r.change("POST /add-meta", members, m.addMeta)
	r.change("GET /remove-meta", members, m.checkRemoveMeta)
	r.leader("POST /remove-meta", members, m.serveRemoveMeta)
	r.local("POST /reset", internal, m.serveReset)
	r.change("POST /add-data", members, m.addData)
	r.change("POST /activate-data", members, m.activateData)
	r.change("POST /update-data", members, m.updateData)
	r.change("POST /adopt", admin, m.adopt) // it brings users
	r.change("POST "+adoptClusterPath, admin, m.adoptCluster)
	r.change("GET /remove-data", members, m.checkRemoveData)
	r.change("POST /remove-data", members, m.removeData)
	r.change("POST /truncate-shards", needs(cluster.ManageShard, cluster.Rebalance), m.truncateShards)
	r.change("POST /node-labels", members, m.nodeLabels)
}

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

// addMeta refuses a request for another cluster: a node that follows to a leader may come to one that lost its folder.
func (m *memberRoutes) addMeta(r *http.Request) (any, error) {
	if id := r.FormValue("cluster"); id != "" {
		if err := m.meta.checkIn(id); err != nil {
			return nil, err
		}
	}
	addr := r.FormValue("addr")
	if addr == "" {
		addr = m.server.httpAddr
	}
	return nodeAnswer(m.meta.AddMeta(r.Context(), addr))
}

func (m *memberRoutes) checkRemoveMeta(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	return nodeAnswer(m.meta.checkRemoveMeta(r.Context(), r.FormValue("addr"), force))
}

// serveRemoveMeta answers from the next leader when this one is to be removed.
func (m *memberRoutes) serveRemoveMeta(w http.ResponseWriter, r *http.Request) {
	force, err := boolValue(r, "force")
	if err != nil {
		Reply(w, nil, err)
		return
	}
	if err := m.checkTCP(r.FormValue("addr"), r.FormValue("tcp")); err != nil {
		Reply(w, nil, err)
		return
	}
	n, err := m.meta.RemoveMeta(r.Context(), r.FormValue("addr"), force)
	if errors.Is(err, errNoLeader) {
		ctx, cancel := context.WithTimeout(r.Context(), leaderTimeout)
		defer cancel()
		until(ctx, func() bool { _, err := m.server.leaderHTTP(); return err == nil && !m.server.Leads() })
		toLeader(m.server, func(w http.ResponseWriter, _ *http.Request) { Reply(w, nil, errNoLeader) }).ServeHTTP(w, r)
		return
	}
	Reply(w, wire.Node(n), err)
}

// checkTCP refuses to remove the meta node at addr when it has another TCP address than the one that is given, if any.
func (m *memberRoutes) checkTCP(addr, tcp string) error {
	for _, n := range m.server.State().MetaNodes {
		if (addr == n.HTTPAddr || addr == n.TCPAddr) && tcp != "" && tcp != n.TCPAddr {
			return fmt.Errorf("meta node %s has the TCP address %s, not %s", addr, n.TCPAddr, tcp)
		}
	}
	return nil
}

// serveReset makes this node forget its cluster, once that has removed it.
func (m *memberRoutes) serveReset(w http.ResponseWriter, r *http.Request) {
	Reply(w, struct{}{}, m.meta.forget(r.Context(), r.FormValue("cluster")))
}

func (m *memberRoutes) addData(r *http.Request) (any, error) {
	passive, err := boolValue(r, "passive")
	if err != nil {
		return nil, err
	}
	if passive {
		return nodeAnswer(m.data.AddPassiveData(r.Context(), r.FormValue("addr")))
	}
	return nodeAnswer(m.data.AddData(r.Context(), r.FormValue("addr")))
}

func (m *memberRoutes) adopt(r *http.Request) (any, error) {
	dryRun, err := boolValue(r, "dry-run")
	if err != nil {
		return nil, err
	}
	merge, err := boolValue(r, "merge")
	if err != nil {
		return nil, err
	}
	return m.data.Adopt(r.Context(), r.FormValue("addr"), dryRun, merge)
}

// adoptClusterPath is the route that gets the metadata of another cluster.
const adoptClusterPath = "/adopt-cluster"

func (m *memberRoutes) adoptCluster(r *http.Request) (any, error) {
	dryRun, err := strconv.ParseBool(r.URL.Query().Get("dry-run"))
	if err != nil {
		return nil, errors.New("dry-run: must be true or false")
	}
	metadata, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("the metadata of the other cluster: %w", err)
	}
	return m.data.AdoptCluster(metadata, dryRun)
}

func (m *memberRoutes) activateData(r *http.Request) (any, error) {
	return nodeAnswer(m.data.Activate(r.FormValue("addr")))
}

func (m *memberRoutes) updateData(r *http.Request) (any, error) {
	return nodeAnswer(m.data.UpdateData(r.Context(), r.FormValue("old"), r.FormValue("new")))
}

func (m *memberRoutes) checkRemoveData(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	could, _, err := m.data.removableData(r.Context(), r.FormValue("addr"), force)
	return could.answer(), err
}

func (m *memberRoutes) removeData(r *http.Request) (any, error) {
	force, err := boolValue(r, "force")
	if err != nil {
		return nil, err
	}
	removed, err := m.data.RemoveData(r.Context(), r.FormValue("addr"), force)
	return removed.answer(), err
}

func (m *memberRoutes) truncateShards(r *http.Request) (any, error) {
	delay, err := time.ParseDuration(r.FormValue("delay"))
	if err != nil {
		return nil, errors.New("delay: must be a duration such as 1m")
	}
	return struct{}{}, m.truncate(delay)
}

// truncate ends the shards that are written to now, at now + delay.
func (m *memberRoutes) truncate(delay time.Duration) error {
	if delay < 0 {
		return errors.New("delay: must not be negative")
	}
	if m.server.State().Data.ClusterID == 0 {
		return ErrNotInitialised
	}
	_, err := m.server.Execute(cluster.TruncateShardGroups{Time: m.server.deps.Now().Add(delay)})
	return err
}

func (m *memberRoutes) nodeLabels(r *http.Request) (any, error) {
	set := map[string]string{}
	if v := r.FormValue("set"); v != "" {
		if err := json.Unmarshal([]byte(v), &set); err != nil {
			return nil, errors.New("the labels to set must be a JSON object of strings, such as {\"az\":\"eu-1a\"}")
		}
	}
	var remove []string
	if v := r.FormValue("delete"); v != "" {
		if err := json.Unmarshal([]byte(v), &remove); err != nil {
			return nil, errors.New("the labels to delete must be a JSON list of strings, such as [\"az\"]")
		}
	}
	return nodeAnswer(m.labelNode(r.FormValue("node"), set, remove))
}

// labelNode changes the labels of a node. It is named by a data node's TCP address, a meta node's HTTP or Raft address,
// or its ID.
func (m *memberRoutes) labelNode(node string, set map[string]string, remove []string) (cluster.Node, error) {
	st := m.server.State()
	for _, nodes := range [][]cluster.Node{st.DataNodes, st.MetaNodes} {
		for _, n := range nodes {
			if node == n.TCPAddr || node == n.HTTPAddr || node == fmt.Sprint(n.ID) {
				return m.server.executeNode(cluster.SetNodeLabels{ID: n.ID, Set: set, Delete: remove})
			}
		}
	}
	return cluster.Node{}, fmt.Errorf("node %q does not exist: "+
		"give its id or an address as influxd-ctl show prints it", node)
}
