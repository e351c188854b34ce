package deletes

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/order"
	"concord/internal/rpc"
)

func TestMalformedDeletesHaveNoEffect(t *testing.T) {
	s := mustStore(t)
	srv := serverOf(t, s)
	for _, r := range []*rpc.Delete{
		{Database: db, Id: "d"}, {Kind: 99, Database: db, Id: "d"},
		{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Id: "d"},
		{Kind: rpc.Delete_DROP_MEASUREMENT, Database: "..", Name: "m", Id: "d"},
		{Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "d", Statement: "DROP DATABASE db0"},
		{Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "d", Statement: "DELETE FROM a; DELETE FROM b"},
		{Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "d", Statement: "DELETE FR"}, nil,
	} {
		_, err := srv.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: r})
		_, announced := srv.AnnounceDelete(t.Context(), &rpc.AnnounceDeleteRequest{Delete: r})
		_, kept := srv.HintDelete(t.Context(), &rpc.HintDeleteRequest{Delete: r, Nodes: []uint64{1}})
		for _, err := range []error{err, announced, kept} {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v: %v", r, err)
			}
		}
	}
	nameless := &rpc.RunDeleteRequest{Delete: &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m"}}
	if _, err := srv.RunDelete(t.Context(), nameless); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a delete without an ID: %v", err)
	}
	for _, r := range []*rpc.DropShardsRequest{
		{}, {What: &rpc.DropShardsRequest_Database{}}, {What: &rpc.DropShardsRequest_Database{Database: ".."}},
		{What: &rpc.DropShardsRequest_RetentionPolicy{}},
		{What: &rpc.DropShardsRequest_RetentionPolicy{RetentionPolicy: &rpc.DropRetentionPolicy{Database: db}}},
		{What: &rpc.DropShardsRequest_RetentionPolicy{
			RetentionPolicy: &rpc.DropRetentionPolicy{Database: db, Name: "../db1"},
		}},
	} {
		if _, err := srv.DropShards(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, req := range []*rpc.ExecuteRequest{
		{Database: db}, {Kind: 99, Database: db}, {Kind: rpc.ExecuteRequest_DROP_DATABASE},
		{Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: ".."}, {Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db},
		{Kind: rpc.ExecuteRequest_DROP_RETENTION_POLICY, Database: db, Name: "../db1"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DROP DATABASE db0"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DELETE FROM a; DELETE FROM b"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DELETE FR"},
	} {
		if _, err := srv.Execute(context.Background(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	if n := s.ShardN(); n != 0 {
		t.Errorf("%d shards were created", n)
	}
}

// A request that is refused does not move the clock. A version that is far ahead is refused, and may come again when
// the clocks are right.
func TestRefusedRequestsDoNotMoveTheClock(t *testing.T) {
	t.Parallel()
	srv := serverOf(t, mustStore(t))
	clock := srv.s.d.deps.Clock
	soon := uint64(order.AtTime(time.Now().Add(time.Hour)))
	bad := &rpc.Delete{Kind: 99, Database: db, Id: "d", Version: soon}
	srv.AnnounceDelete(t.Context(), &rpc.AnnounceDeleteRequest{Delete: bad, Clock: soon})
	srv.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: bad})
	srv.EndDelete(t.Context(), &rpc.EndDeleteRequest{Database: "..", Version: soon})
	srv.Execute(t.Context(), &rpc.ExecuteRequest{Kind: 99, Database: db, Version: soon})
	far := uint64(order.AtTime(time.Now().Add(48 * time.Hour)))
	del := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d", Version: far}
	_, err := srv.AnnounceDelete(t.Context(), &rpc.AnnounceDeleteRequest{Delete: del, Clock: far})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("announced with a clock that is far ahead: %v", err)
	}
	resp, err := srv.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: del})
	if err != nil || resp.Error == "" {
		t.Errorf("a delete with a version that is far ahead: %v, %v", resp, err)
	}
	if got := time.Until(clock.Now().Time()); got > time.Minute {
		t.Errorf("the clock moved by %v", got)
	}
}
