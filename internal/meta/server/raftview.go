package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/eventlog"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
	"concord/internal/version"
)

// process is what this process of the node says of itself.
type process struct {
	number  uint64 // random
	started time.Time
	events  eventlog.Log
}

func newProcess() *process { return &process{number: rand.Uint64() | 1, started: time.Now()} }

// Raft is this node's part in the consensus. Of the process with the given number, it has the events after one.
func (s *Server) Raft(process, after uint64) wire.Raft {
	r := s.st().raft
	leader, _ := r.LeaderWithID()
	out := wire.Raft{
		HTTPAddr: s.ownHTTP(), Version: version.String(), Started: s.process.started,
		State: strings.ToLower(r.State().String()), Leader: string(leader),
		Term: r.CurrentTerm(), Last: r.LastIndex(), Commit: r.CommitIndex(), Applied: r.AppliedIndex(),
		Process: s.process.number,
	}
	if r.State() != raft.Leader {
		out.Contact = r.LastContact()
	}
	if process != s.process.number {
		after = 0
	}
	for _, e := range s.process.events.After(after) {
		out.Events = append(out.Events, wire.Event(e))
	}
	return out
}

// serveRaft tells other nodes of this node's part in the consensus.
func (a *API) serveRaft(w http.ResponseWriter, r *http.Request) {
	process, err := strconv.ParseUint(r.FormValue("process"), 10, 64)
	after, err2 := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil || err2 != nil {
		process, after = 0, 0
	}
	Reply(w, a.server.Raft(process, after), nil)
}

// AskRaft asks all meta nodes for their parts in the consensus. seen says of which process, by HTTP address, which
// events the caller has.
func (s *Server) AskRaft(
	ctx context.Context, timeout time.Duration, seen func(addr string) (process, after uint64),
) []rpc.Answer[cluster.Node, wire.Raft] {
	own := s.ownHTTP()
	return rpc.AskAll(ctx, s.State().MetaNodes, timeout, func(ctx context.Context, n cluster.Node) (wire.Raft, error) {
		process, after := seen(n.HTTPAddr)
		if n.HTTPAddr == own {
			return s.Raft(process, after), nil
		}
		b, err := s.peers.Ask(ctx, http.MethodGet, n.HTTPAddr, "/raft", url.Values{
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

// userChanges are the changes that make a line of the log. The others are too many, or are seen elsewhere.
var userChanges = map[string]bool{
	"create-user": true, "update-user": true, "drop-user": true, "set-privilege": true, "set-admin-privilege": true,
	"change-grants": true, "create-role": true, "drop-role": true, "rename-role": true, "change-role": true,
}

// logChange logs a change of who may do what. Passwords and their hashes are not in the line.
func (s *Server) logChange(c cluster.Command) {
	if !userChanges[c.Type] {
		return
	}
	var who struct{ Name, Username, User, Database string }
	_ = json.Unmarshal(c.Args, &who) // the change was made, so it can be read
	s.log.Info("Users or roles were changed", zap.String("change", strings.ReplaceAll(c.Type, "-", " ")),
		zap.String("name", who.Name+who.Username+who.User), zap.String("database", who.Database))
}
