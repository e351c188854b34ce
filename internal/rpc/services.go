package rpc

import "google.golang.org/grpc"

// Services lists all services of 8088, for tests that walk them.
func Services() []*grpc.ServiceDesc {
	return []*grpc.ServiceDesc{
		&Membership_ServiceDesc, &Replication_ServiceDesc, &Deletes_ServiceDesc, &Query_ServiceDesc, &Entropy_ServiceDesc,
		&Reconcile_ServiceDesc, &Points_ServiceDesc, &Scrub_ServiceDesc, &CopyState_ServiceDesc, &Resolve_ServiceDesc,
		&Shards_ServiceDesc,
	}
}
