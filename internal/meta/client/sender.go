package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/httpclient"
	"concord/internal/meta/wire"
)

const (
	executeTimeout = wire.CommitTimeout + 5*time.Second
	showTimeout    = 5 * time.Second        // for this node's copy to show a change made through it
	electionPause  = 250 * time.Millisecond // before a change is sent again while the meta nodes elect a leader
)

// sender sends changes of the cluster's state to the leader of the meta nodes.
type sender struct {
	copied  *stateCopy
	nodes   *metaNodes
	catchUp *catchUp
}

// Execute commits a change on the meta nodes and waits until this node's copy shows it. Of the engine's errors it
// returns the engine's own value, once the copy shows why.
func (s *sender) Execute(op cluster.Op) error {
	who := s.copied.member.who.Load()
	if who.NodeID == 0 {
		return ErrNotJoined
	}
	cmd, err := cluster.NewCommand(op)
	if err != nil {
		return err
	}
	index, err := s.commit(who.MetaServers, cmd)
	if index == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), showTimeout)
	defer cancel()
	late := s.catchUp.fetchTo(ctx, index)
	if late != nil {
		late = s.copied.wait(ctx, func(s *cluster.State) bool { return s.Index >= index })
	}
	if late != nil && err == nil {
		return fmt.Errorf("%s is committed, but this node has not seen it within %s", cmd.Type, showTimeout)
	}
	return err
}

// commit sends cmd to the leader, and returns the index of the state that shows its effect, also with an error of the
// command itself. While the meta nodes elect a leader it waits and tries again; after a failure on the way only
// commands that may be repeated are sent again.
func (s *sender) commit(servers []string, cmd cluster.Command) (index uint64, err error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), executeTimeout)
	defer cancel()
	post := func(ctx context.Context, server string) ([]byte, error) {
		answer, err := s.nodes.do(ctx, httpclient.Request{
			Method: http.MethodPost, Server: server, Path: "/execute",
			Type: "application/json", Body: body, Limit: wire.MaxBody,
		})
		return answer.Body, err
	}
	for {
		var b []byte
		if cmd.Repeatable() {
			round, cancel := context.WithTimeout(ctx, roundTimeout)
			b, err = anyOf(round, s.nodes, servers, post)
			cancel()
		} else {
			b, err = s.postOnce(ctx, servers, post)
		}
		if err == nil {
			return executed(b)
		}
		var f *httpclient.Refusal
		if !errors.As(err, &f) && !cmd.Repeatable() {
			return 0, err // it may have been carried out
		} else if f != nil && (!f.Answered || f.Code == http.StatusUnauthorized) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(electionPause):
		}
	}
}

// postOnce finds the leader, and sends a request that must not be carried out twice to it alone.
func (s *sender) postOnce(ctx context.Context, servers []string, post question[[]byte]) ([]byte, error) {
	round, cancel := context.WithTimeout(ctx, roundTimeout)
	_, err := s.nodes.latest(round, servers, math.MaxUint64) // the leader is the one to begin with from then on
	cancel()
	var f *httpclient.Refusal
	if errors.As(err, &f) && f.Code == http.StatusNotFound {
		err = nil // meta nodes of an older version send the request on
	}
	if err != nil && f == nil {
		err = &httpclient.Refusal{Err: err, Answered: true} // one of them hangs, and nothing was sent yet
	}
	if err != nil {
		return nil, err
	}
	server := s.nodes.order(servers)[0]
	b, err := post(ctx, server)
	if errors.As(err, &f) && f.Code == 0 {
		f.Answered = true // it is gone since it said that it leads: the others elect another leader soon
		s.nodes.pass(servers, server)
	}
	return b, err
}

// executed reads the answer to a change: the index of the state that shows its effect.
func executed(b []byte) (uint64, error) {
	var e wire.Execution
	if err := json.Unmarshal(b, &e); err != nil {
		return 0, fmt.Errorf("answer of the meta nodes: %w", err)
	}
	if e.Error != "" {
		return e.Index, engineError(e.Error)
	}
	return e.Index, nil
}
