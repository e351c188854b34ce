package transport

import (
	"context"
	"errors"

	"concord/internal/entropy"
	"concord/internal/rpc"
)

// heal runs a call of the Scrub service with a deadline: the whole shard is read.
func (p *peer) heal(ctx context.Context, fn func(context.Context, rpc.ScrubClient) error) error {
	return within(ctx, p, rootTimeout, rpc.NewScrubClient, fn)
}

func (p *peer) SetAside(ctx context.Context, id uint64) error {
	return p.heal(ctx, func(ctx context.Context, c rpc.ScrubClient) error {
		_, err := c.SetAside(ctx, &rpc.ScrubRequest{ShardId: id})
		return err
	})
}

func (p *peer) Healed(ctx context.Context, id uint64) error {
	return p.heal(ctx, func(ctx context.Context, c rpc.ScrubClient) error {
		_, err := c.Healed(ctx, &rpc.ScrubRequest{ShardId: id})
		return err
	})
}

// SetAside sets the damaged files of a copy aside.
func (s *Server) SetAside(ctx context.Context, r *rpc.ScrubRequest) (*rpc.ScrubResponse, error) {
	return s.heal(r, func(rep entropy.Restorer) error { return rep.SetAside(ctx, r.ShardId) })
}

// Healed forgets that a copy was damaged.
func (s *Server) Healed(ctx context.Context, r *rpc.ScrubRequest) (*rpc.ScrubResponse, error) {
	return s.heal(r, func(rep entropy.Restorer) error { return rep.Healed(ctx, r.ShardId) })
}

func (s *Server) heal(r *rpc.ScrubRequest, fn func(entropy.Restorer) error) (*rpc.ScrubResponse, error) {
	if r.ShardId == 0 {
		return nil, invalid(errors.New("shard 0 is not valid"))
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	if err := fn(rep); err != nil {
		return nil, failure(err)
	}
	return &rpc.ScrubResponse{}, nil
}
