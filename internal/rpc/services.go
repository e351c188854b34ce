package rpc

import "google.golang.org/grpc"

// Services lists all services of 8088, for tests that walk them. A test in package datanode compares it with what a
// node registers.
func Services() []*grpc.ServiceDesc {
	return []*grpc.ServiceDesc{
		&CopyState_ServiceDesc,
		&Deletes_ServiceDesc,
		&Entropy_ServiceDesc,
		&Ldap_ServiceDesc,
		&Membership_ServiceDesc,
		&Overview_ServiceDesc,
		&Points_ServiceDesc,
		&Query_ServiceDesc,
		&Reconcile_ServiceDesc,
		&Replication_ServiceDesc,
		&Resolve_ServiceDesc,
		&RestrictedQuery_ServiceDesc,
		&Scrub_ServiceDesc,
		&Shards_ServiceDesc,
	}
}
