package transport

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/rpc"
)

// maxPointSymbols is how many coded symbols of points one answer has.
const maxPointSymbols = 1 << 16

// points runs a call of the Points service with a deadline.
func (p *peer) points(ctx context.Context, fn func(context.Context, rpc.PointsClient) error) error {
	return within(ctx, p, rootTimeout, rpc.NewPointsClient, fn)
}

func (p *peer) Symbols(
	ctx context.Context, sh cluster.Shard, regions []patch.Region, key uint64, from, to int,
) (out []riblt.Symbol, err error) {
	err = p.points(ctx, func(ctx context.Context, c rpc.PointsClient) error {
		resp, err := c.Symbols(ctx, &rpc.SymbolsRequest{
			ShardId: sh.ID, Regions: toRegions(regions), Key: key, From: uint32(from), To: uint32(to),
		})
		if err != nil {
			return err
		}
		if out, err = riblt.DecodeSymbols(resp.Symbols, to-from); err == nil && len(out) != to-from {
			err = fmt.Errorf("sent %d of %d symbols", len(out), to-from)
		}
		return err
	})
	return out, err
}

func (p *peer) Slices(
	ctx context.Context, sh cluster.Shard, regions []patch.Region, key uint64,
) (out [][patch.Slices]patch.Slice, err error) {
	err = p.points(ctx, func(ctx context.Context, c rpc.PointsClient) error {
		resp, err := c.Slices(ctx, &rpc.SlicesRequest{ShardId: sh.ID, Regions: toRegions(regions), Key: key})
		if err != nil {
			return err
		}
		out, err = fromSlices(resp.Regions, len(regions))
		return err
	})
	return out, err
}

func (p *peer) Versions(
	ctx context.Context, sh cluster.Shard, points []patch.Region,
) (out patch.PointVersions, err error) {
	err = p.points(ctx, func(ctx context.Context, c rpc.PointsClient) error {
		resp, err := c.Versions(ctx, &rpc.VersionsRequest{ShardId: sh.ID, Points: toRegions(points)})
		if status.Code(err) == codes.Unimplemented {
			return entropy.ErrNoVersions // a node of an older version
		} else if err != nil {
			return err
		}
		ofAll := func(n int) bool { return n == len(points) || n == 0 } // 0 of a node of an older version
		if len(resp.Versions) != len(points) || !ofAll(len(resp.Written)) || !ofAll(len(resp.Failed)) {
			return fmt.Errorf("sent %d, %d and %d of %d versions", len(resp.Versions), len(resp.Written), len(resp.Failed),
				len(points))
		}
		out = patch.PointVersions{
			Versions: resp.Versions, Since: resp.Since, Clock: resp.Clock, Written: resp.Written, Forgot: resp.Forgot,
			Failed: resp.Failed,
		}
		return nil
	})
	return out, err
}

// Symbols tells coded symbols of the points in regions.
func (s *Server) Symbols(ctx context.Context, r *rpc.SymbolsRequest) (*rpc.SymbolsResponse, error) {
	regions, rep, err := s.pointsOf(r.ShardId, r.Regions)
	if err != nil {
		return nil, err
	}
	if r.From > r.To || r.To > maxPointSymbols {
		return nil, invalid(fmt.Errorf("symbols [%d, %d) are out of bounds", r.From, r.To))
	}
	symbols, err := rep.Symbols(ctx, cluster.Shard{ID: r.ShardId}, regions, r.Key, int(r.From), int(r.To))
	if err != nil {
		return nil, failure(err)
	}
	return &rpc.SymbolsResponse{Symbols: riblt.AppendSymbols(nil, symbols)}, nil
}

// Slices tells what the parts of regions hold.
func (s *Server) Slices(ctx context.Context, r *rpc.SlicesRequest) (*rpc.SlicesResponse, error) {
	regions, rep, err := s.pointsOf(r.ShardId, r.Regions)
	if err != nil {
		return nil, err
	}
	sums, err := rep.Slices(ctx, cluster.Shard{ID: r.ShardId}, regions, r.Key)
	if err != nil {
		return nil, failure(err)
	}
	resp := &rpc.SlicesResponse{}
	for i := range sums {
		m := &rpc.SlicesResponse_Slices{}
		for _, p := range sums[i] {
			m.Counts = append(m.Counts, p.Count)
			if p.Count > 0 {
				m.Sums = append(m.Sums, p.Sum)
			}
		}
		resp.Regions = append(resp.Regions, m)
	}
	return resp, nil
}

// Versions tells with which versions points were written.
func (s *Server) Versions(ctx context.Context, r *rpc.VersionsRequest) (*rpc.VersionsResponse, error) {
	points, err := fromRegions(r.ShardId, r.Points)
	if err != nil {
		return nil, invalid(err)
	}
	for _, p := range points {
		if p.Min != p.Max {
			return nil, invalid(fmt.Errorf("[%d, %d] is not the time of one point", p.Min, p.Max))
		}
	}
	rep, err := s.copies()
	if err != nil {
		return nil, err
	}
	v, err := rep.Versions(ctx, cluster.Shard{ID: r.ShardId}, points)
	if errors.Is(err, entropy.ErrNoVersions) {
		return nil, status.Error(codes.Unimplemented, err.Error())
	} else if err != nil {
		return nil, failure(err)
	}
	return &rpc.VersionsResponse{
		Versions: v.Versions, Since: v.Since, Clock: v.Clock, Written: v.Written, Forgot: v.Forgot,
		Failed: v.Failed,
	}, nil
}

func fromSlices(in []*rpc.SlicesResponse_Slices, n int) ([][patch.Slices]patch.Slice, error) {
	if len(in) != n {
		return nil, fmt.Errorf("told of %d of %d regions", len(in), n)
	}
	out := make([][patch.Slices]patch.Slice, n)
	for i, m := range in {
		if len(m.Counts) != patch.Slices {
			return nil, fmt.Errorf("told of %d slices of a region, not of %d", len(m.Counts), patch.Slices)
		}
		sums := m.Sums
		for j, count := range m.Counts {
			if count == 0 {
				continue
			}
			if len(sums) == 0 {
				return nil, fmt.Errorf("sent %d sums, fewer than there are slices with points", len(m.Sums))
			}
			out[i][j] = patch.Slice{Count: count, Sum: sums[0]}
			sums = sums[1:]
		}
	}
	return out, nil
}

// pointsOf checks a question about points, and returns who answers it.
func (s *Server) pointsOf(shard uint64, in []*rpc.Region) ([]patch.Region, entropy.Points, error) {
	regions, err := fromRegions(shard, in)
	if err != nil {
		return nil, nil, invalid(err)
	}
	rep, err := s.copies()
	if err != nil {
		return nil, nil, err
	}
	return regions, rep, nil
}
