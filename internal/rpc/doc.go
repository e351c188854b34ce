// Package rpc is how data nodes call each other on port 8088, and how meta nodes call them: the protobuf services, a
// pool of client connections, and what all calls and all servers have in common. It does not do the work of any
// service. The package that does it also implements the service, and datanode/services.go registers all of them.
//
// # The services
//
//	Membership       a data node's place in the cluster                       datanode
//	Replication      writes on one owner                                      replication
//	Deletes          deletes, and shards that were dropped                    deletes
//	CopyState        which writes and deletes wait for which copies           copystate
//	Query            queries over the shards of a node                        distquery
//	RestrictedQuery  Query for users with restrictions                        distquery
//	Shards           copies of shards as files                                shardcopy
//	Entropy          anti-entropy: copies, and the service                    entropy/transport
//	Reconcile        summaries of copies                                      entropy/transport
//	Points           points of copies                                         entropy/transport
//	Scrub            damaged copies                                           entropy/transport
//	Resolve          types of fields                                          entropy/transport
//	Ldap             what a data node remembers of users of LDAP servers      datanode
//	Overview         what a data node says of itself on the page              datanode
//
// Each .proto file here has the messages of one service or of some, and a .pb.go file beside it is generated from it.
//
// # A call
//
// The client takes a connection from a Pool and makes the service's client of it. The pool has one connection for each
// address, for all callers. A connection is made with the first call. While the other node is away, a call fails with
// the code Unavailable. gRPC tries to connect again, with pauses of some 2 seconds at most. A node that hangs is given
// up after 15 seconds.
//
//	the caller                                                     the node that is called
//	Pool.Conn      takes a connection to the address
//	speaking       sends the version of its protocol     ────────► Speaking    refuses what is too old
//	relying        sends the index of its metadata       ────────► CatchingUp  waits until its copy is as new
//	bearer         sends a token of the shared secret    ────────► Guard       refuses calls without it; comes first
//	TLS, if it is configured                                       Stopping    ends queries when the node stops
//	                                                               the service
//
// More about some of them:
//
//   - Guard refuses a call without the shared secret before any byte of its message is kept. There may be 128
//     connections that have not proven it, and each ends after 10 seconds. Without a secret in the configuration,
//     Guard lets in all.
//   - The caller sends which version of the protocol it speaks. When this node does not work with every version, it
//     asks the other node for its version first, once for each connection. Package protocol says which versions may be
//     mixed.
//   - The caller sends the index of its copy of the metadata. The other node waits until its own copy is as new, and
//     then answers, also when it had to give up.
//   - A question for a user with restrictions goes to RestrictedQuery. A node of an older version, which knows no
//     restrictions, does not have that service, and so cannot answer with what the user may not see.
//
// AskAll asks many nodes at once and returns when each has answered or failed.
//
// # The files
//
//	pool.go        Pool, and NewServer: the limits of all connections
//	ask.go         AskAll and TellAll
//	guard.go       the shared secret
//	speaking.go    the version of the protocol
//	relied.go      the metadata that a call relies on
//	restricted.go  Query for users with restrictions
//	stopping.go    the end of a server
//	called.go      the statistic rpc: calls of this node
//	served.go      the statistic cluster: calls of other nodes
//	services.go    the list of all services, for tests
//	*.proto        the messages
//
// Read pool.go first, and of a service its .proto file.
package rpc
