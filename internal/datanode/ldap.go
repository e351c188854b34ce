package datanode

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/ldap"
	"concord/internal/rpc"
)

// ldapServer does what meta nodes ask about users of LDAP servers.
type ldapServer struct {
	rpc.UnimplementedLdapServer
	users *ldap.Users
}

// Warm begins or ends a warming, or only tells of the last one.
func (s ldapServer) Warm(_ context.Context, r *rpc.WarmRequest) (*rpc.WarmResponse, error) {
	if r.Cancel {
		s.users.CancelWarm()
	}
	if r.Begin {
		if err := s.users.Warm(); err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	w := s.users.WarmStatus()
	return &rpc.WarmResponse{
		State: w.State, Groups: int64(w.Groups), Users: int64(w.Users), Error: w.Error,
		Began: nanoseconds(w.Began), Ended: nanoseconds(w.Ended),
	}, nil
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
