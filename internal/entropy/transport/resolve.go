package transport

import (
	"context"
	"errors"
	"fmt"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/retype"
	"concord/internal/rpc"
)

// resolver runs a call of the Resolve service with a deadline: all values of a field may be read.
func resolver[Resp any](
	ctx context.Context, p *peer, fn func(context.Context, rpc.ResolveClient) (Resp, error),
) (resp Resp, err error) {
	err = within(ctx, p, rootTimeout, rpc.NewResolveClient, func(ctx context.Context, c rpc.ResolveClient) error {
		resp, err = fn(ctx, c)
		return err
	})
	return resp, err
}

func (p *peer) FieldType(ctx context.Context, id uint64, measurement, field string) (digest.Type, bool, error) {
	resp, err := resolver(ctx, p, func(ctx context.Context, c rpc.ResolveClient) (*rpc.FieldTypeResponse, error) {
		return c.FieldType(ctx, &rpc.FieldTypeRequest{
			ShardId: id, Measurement: []byte(measurement), Field: []byte(field),
		})
	})
	if err != nil {
		return 0, false, err
	}
	if resp.Type != 0 {
		if err := checkType(resp.Type); err != nil {
			return 0, false, fmt.Errorf("node %s: %w", p.node.TCPAddr, err)
		}
	}
	return digest.Type(resp.Type), resp.Measurement, nil
}

func retypeRequest(id uint64, f retype.Field) *rpc.RetypeRequest {
	return &rpc.RetypeRequest{
		ShardId: id, Measurement: []byte(f.Measurement), Field: []byte(f.Name), Type: uint32(f.Type),
	}
}

func (p *peer) Retype(ctx context.Context, id uint64, f retype.Field) (retype.Kept, error) {
	resp, err := resolver(ctx, p, func(ctx context.Context, c rpc.ResolveClient) (*rpc.RetypeResponse, error) {
		return c.Retype(ctx, retypeRequest(id, f))
	})
	if err != nil {
		return retype.Kept{}, err
	}
	return retype.Kept{Path: resp.Path, Points: int(resp.Points)}, nil
}

func (p *peer) Resolve(ctx context.Context, id uint64, f retype.Field) ([]entropy.Resolved, error) {
	resp, err := resolver(ctx, p, func(ctx context.Context, c rpc.ResolveClient) (*rpc.ResolveResponse, error) {
		return c.Resolve(ctx, retypeRequest(id, f))
	})
	if err != nil {
		return nil, err
	}
	if resp.Refused != "" {
		return nil, entropy.UnresolvableError{Reason: resp.Refused}
	}
	out := make([]entropy.Resolved, len(resp.Owners))
	for i, o := range resp.Owners {
		out[i] = entropy.Resolved{Node: o.Node, Kept: retype.Kept{Path: o.Path, Points: int(o.Points)}}
	}
	return out, nil
}

// retyper is this node's copies.
func (s *Server) retyper(id uint64, measurement, field []byte) (entropy.Retyper, error) {
	if err := checkKey(measurement, field); err != nil {
		return nil, invalid(err)
	}
	if id == 0 {
		return nil, invalid(errors.New("shard 0 is not valid"))
	}
	return s.copies()
}

// FieldType tells which type a field has here.
func (s *Server) FieldType(ctx context.Context, r *rpc.FieldTypeRequest) (*rpc.FieldTypeResponse, error) {
	local, err := s.retyper(r.ShardId, r.Measurement, r.Field)
	if err != nil {
		return nil, err
	}
	typ, known, err := local.FieldType(ctx, r.ShardId, string(r.Measurement), string(r.Field))
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.FieldTypeResponse{Type: uint32(typ), Measurement: known}, nil
}

func retypeField(r *rpc.RetypeRequest) (retype.Field, error) {
	f := retype.Field{Measurement: string(r.Measurement), Name: string(r.Field), Type: digest.Type(r.Type)}
	if err := errors.Join(checkKey(r.Measurement, r.Field), checkType(r.Type)); err != nil {
		return f, invalid(err)
	}
	return f, nil
}

// Retype gives a field here its type.
func (s *Server) Retype(ctx context.Context, r *rpc.RetypeRequest) (*rpc.RetypeResponse, error) {
	local, err := s.retyper(r.ShardId, r.Measurement, r.Field)
	if err != nil {
		return nil, err
	}
	f, err := retypeField(r)
	if err != nil {
		return nil, err
	}
	kept, err := local.Retype(ctx, r.ShardId, f)
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.RetypeResponse{Path: kept.Path, Points: uint64(kept.Points)}, nil
}

// Resolve gives a field its type on all owners of a shard, of which this node is the first.
func (s *Server) Resolve(ctx context.Context, r *rpc.RetypeRequest) (*rpc.ResolveResponse, error) {
	if s.control == nil {
		return nil, failure(entropy.ErrDisabled)
	}
	if r.ShardId == 0 {
		return nil, invalid(errors.New("shard 0 is not valid"))
	}
	f, err := retypeField(r)
	if err != nil {
		return nil, err
	}
	all, err := s.control.Resolve(ctx, r.ShardId, f)
	var refused entropy.UnresolvableError
	if errors.As(err, &refused) {
		return &rpc.ResolveResponse{Refused: refused.Reason}, nil
	} else if err != nil {
		return nil, failure(err)
	}
	resp := &rpc.ResolveResponse{}
	for _, o := range all {
		resp.Owners = append(resp.Owners, &rpc.ResolveResponse_Owner{
			Node: o.Node, Path: o.Path, Points: uint64(o.Points),
		})
	}
	return resp, nil
}
