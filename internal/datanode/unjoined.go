package datanode

import (
	"context"
	"fmt"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/protocol"
	"concord/internal/rpc"
)

// refuseTooOld makes a server refuse the calls of nodes whose version may not be mixed with this one's. It is logged
// once for each of them.
func (n *Node) refuseTooOld() []grpc.ServerOption {
	return rpc.Speaking(protocol.Own, func(addr string, err error) {
		n.tooOld.Do(addr, err, func() { n.log.Error("A node is refused", zap.Error(err)) })
	})
}

// refuseUnjoined makes a server refuse the calls of other nodes while this one is in no cluster, but for those about
// membership. Its address may be that of a data node that lost all its folders: the others go on calling it, and would
// take an empty copy for a whole one, and count writes that update-data then finds in folders that are to be empty.
func (n *Node) refuseUnjoined() []grpc.ServerOption {
	allowed := "/" + rpc.Membership_ServiceDesc.ServiceName + "/"
	check := func(method string) error {
		if n.Meta.NodeID() != 0 || strings.HasPrefix(method, allowed) {
			return nil
		}
		return status.Error(codes.Unavailable, fmt.Sprintf("data node %s %s: it is in no cluster: "+
			"run influxd-ctl add-data, or update-data for the place of another one", n.tcpAddr, rpc.ServesNothing))
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := check(info.FullMethod); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := check(info.FullMethod); err != nil {
			return err
		}
		return next(srv, ss)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}
