package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"concord/internal/meta/wire"
	"concord/internal/whois"
)

// serveStatus answers with this node's part in Raft.
func (a *API) serveStatus(w http.ResponseWriter, _ *http.Request) {
	leader, _ := a.server.st().raft.LeaderWithID()
	st := wire.Status{
		NodeType: "meta", Leader: string(leader),
		HTTPAddr: a.server.httpAddr, RaftAddr: a.server.raftAddr, Peers: []string{},
	}
	if f := a.server.st().raft.GetConfiguration(); f.Error() == nil {
		for _, p := range f.Configuration().Servers {
			if p.ID == a.server.st().id {
				p.Address = raft.ServerAddress(a.server.raftAddr)
			}
			st.Peers = append(st.Peers, string(p.Address))
		}
	}
	Reply(w, st, nil)
}

// serveShards lists all shards with their owners, and with verbose=true what these say of their copies.
func (a *API) serveShards(w http.ResponseWriter, r *http.Request) {
	st := a.server.State()
	var copies map[uint64]map[uint64]wire.CopyState
	if r.FormValue("verbose") == "true" {
		copies = a.deps.CopyStates(r.Context())
	}
	out := []wire.Shard{}
	for _, sh := range st.Shards() {
		i := wire.Shard{
			ID: sh.ID, Database: sh.Database, RetentionPolicy: sh.RetentionPolicy, ReplicaN: sh.ReplicaN,
			GroupID: sh.GroupID,
			Start:   time.Unix(0, sh.Start).UTC(), End: time.Unix(0, sh.End).UTC(), Owners: []wire.Owner{},
		}
		if sh.Expires != 0 {
			t := time.Unix(0, sh.Expires).UTC()
			i.Expires = &t
		}
		if sh.Truncated {
			i.TruncatedAt = &i.End
		}
		for _, id := range sh.Owners {
			n, _ := st.DataNode(id)
			owner := wire.Owner{ID: id, TCPAddr: n.TCPAddr}
			if c, ok := copies[sh.ID][id]; ok {
				owner.CopyState = &c
			}
			i.Owners = append(i.Owners, owner)
		}
		out = append(out, i)
	}
	Reply(w, out, nil)
}

// serveWhoIs tells a data node what this meta node knows of its place, and which process answers there.
func (a *API) serveWhoIs(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.FormValue("node"), 10, 64)
	if err != nil {
		Reply(w, nil, errors.New("node: must be a number"))
		return
	}
	st := a.server.State()
	if st.Data.ClusterID == 0 {
		Reply(w, nil, ErrNotInitialised)
		return
	}
	if c := r.FormValue("cluster"); c != strconv.FormatUint(st.Data.ClusterID, 10) {
		Reply(w, nil, errOtherCluster(st.Data.ClusterID, c))
		return
	}
	ctx := r.Context()
	if v := r.FormValue("wait"); v != "" {
		wait, err := time.ParseDuration(v)
		if err != nil {
			Reply(w, nil, errors.New("wait: must be a duration"))
			return
		}
		limited, cancel := context.WithTimeout(ctx, min(wait, pollWait))
		defer cancel()
		ctx = limited
	}
	report := whois.Recorded(st, id)
	report.Look(ctx, a.server.pool)
	Reply(w, report, nil)
}
