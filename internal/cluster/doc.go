// Package cluster holds the state of a cluster as data, with pure functions over it: nodes, databases, shard groups
// and their owners, users and roles. It knows no network, no disk and no clock. Package meta/server replicates the
// state among the meta nodes with Raft, and package meta/client keeps a copy of it on each data node.
//
// # What is in the state
//
//	State
//	  DataNodes, MetaNodes     members, with their addresses; an ID is never used again
//	  Data                     the engine's own metadata:
//	    Databases                database ─► retention policy ─► shard group ─► shard ─► owners
//	    Users                    with what the engine knows of their rights
//	  Grants, Roles            permissions beside those that the engine knows
//	  Restrictions, FineGrants fine-grained authorization
//	  ContinuousRuns           when continuous queries ran last
//	  LDAP                     the LDAP configuration
//	  Merges                   adopted copies that nobody has compared with the others
//
// An owner is the ID of a data node. Shard is one shard with all that its place in this tree says of it.
//
// # How it changes
//
// Every change is an Op: a struct whose fields say all that is not the same on every node or at every time, such as
// clock readings, password hashes and random IDs. So the same log gives the same state on all meta nodes. A Command is
// an Op as it is logged: its name, and its fields as JSON. The names are in logs on disk, and never change.
//
//	asks         NewCommand(op)      encodes it
//	  │
//	  ▼
//	the leader   At(command, now)    what it says of the present becomes a time
//	             Done(command)       is it known to change nothing?
//	             Check(command)      may it be logged? a rule that older logs may break
//	  │ Raft
//	  ▼
//	all          Next(index, command)  the state after it; the old one is left alone
//
// apply gets a Clone, which shares with the old state what no Op changes in place: such fields are never changed, only
// replaced. So whoever holds a State can go on reading it. Index grows with every change.
//
// # Where new shards go
//
// CreateShardGroup makes a group when a write needs one. N data nodes and X replicas give N/X shards, at least one,
// with X owners each. The owners of a shard are of different zones where they can be. A passive node gets none, and
// neither does one that is being drained, unless all are.
//
// # The files
//
//	state.go         State, Node and Shard
//	command.go       Op and Command; all ops by name
//	encoding.go      the bytes of a state, with version and checksum (docs/format/state.md)
//	shards.go        shard groups, shards and their owners
//	node_ops.go      members, labels, draining
//	database_ops.go  databases, policies, continuous queries and subscriptions; names.go: names that are folders
//	user_ops.go      users; user.go: a user with all permissions
//	permissions.go   permissions and grants; roles.go: roles
//	restrictions.go  fine-grained authorization, with package restrict
//	continuous.go    runs of continuous queries
//	ldap.go          the LDAP configuration
//	adopt.go         takes over a plain server; adoptcluster.go: a cluster of influxdb-cluster
//
// Read state.go, then command.go, then one op, such as CreateShardGroup.
package cluster
