package deletes

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

func TestMalformedDeletesHaveNoEffect(t *testing.T) {
	s := mustStore(t)
	srv := serverOf(t, s)
	for _, req := range []*rpc.ExecuteRequest{
		{Database: db}, {Kind: 99, Database: db}, {Kind: rpc.ExecuteRequest_DROP_DATABASE}, {Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: ".."},
		{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db}, {Kind: rpc.ExecuteRequest_DROP_RETENTION_POLICY, Database: db, Name: "../db1"},
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
