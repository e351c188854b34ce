// Package datanode assembles a data node: the process influxd. It makes all parts, gives each what it needs, starts
// them in order and stops them in reverse. It is the only place that knows every part. What a part does is in its own
// package. Here are the connections between parts, and what concerns the node as a whole: its folders, its place, its
// configuration.
//
// # Terms
//
//   - The place of a node is its entry in the cluster's state: an ID, addresses, and an identity, which names its
//     folders.
//   - A node serves while its place is confirmed. Otherwise an idle server answers: it says who the node is and why it
//     serves nothing, and the node can join a cluster.
//   - The mark is a file in the data folder that says of which cluster the shards are. A node does not open shards of
//     another one, or of a server that is not Concord's, unless these are adopted.
//   - Seams are functions with which tests and the tour change what a node does.
//
// # The start
//
//	Open
//	  certificates, the ports of other nodes and of clients
//	  Meta           the cached copy of the cluster's state; pool: connections to other data nodes
//	  openFolder     whose shards are on disk? what a crash left undone of an adoption is done
//	  takePlace      is this process the node that its folders say? other members confirm it, if it is in a cluster
//	    │ yes                                      │ no, or nobody answers for 5 seconds
//	    ▼                                          ▼
//	  openParts                                  an idle server; keepPlace asks again and again
//	    openStore        the engine, after damaged files were set aside; drops, writecache, fulldisk
//	    openCopies       which copies are whole (copystate)
//	    openSubscriber   copies of writes for subscriptions
//	    openOrder        clock, journal of writes, log of deletes
//	    tellOfAdoption   other owners hear of shards that were adopted
//	    openWrites       hinted handoff, writer, deletes; the queues are opened, and sent from now on
//	    leaveCluster     forgets what belongs to a cluster that was left
//	    startWrites      writes and deletes are taken from now on
//	    openQueries      the executor of InfluxQL, over the cluster
//	    openEntropy      anti-entropy; other nodes are answered from now on
//	    openServices     the engine's services, other listeners and, last of all, the HTTP API for clients
//	    openBackups      influxd backup and restore of InfluxDB OSS
//
// Each step that starts something calls onClose. Close runs these functions, the last one first. keepPlace follows the
// cluster's state while the node runs. When another process holds the place, the parts are closed and the idle server
// answers. Reload, on SIGHUP, takes over what can change while the node runs.
//
// Hinted handoff, the writer and anti-entropy are asked for before they are open. The node reaches them through
// pointers that are nil until then (queues, suspects).
//
// # Where calls come in
//
//	8086 clients ──► httpapi ──► queries.go (distquery)       ──► Store, and other nodes
//	                         └─► writer (replication)         ──► holds, fulldisk, writecache ──► Store
//	8088 nodes   ──► listener.go ──► services.go: a server for each gRPC service of package rpc
//	8088 OSS     ──► listener.go ──► ossbackup.go
//
// # The files
//
//	node.go          Node, Open, Close, Reload; engine.go, copies.go, order.go, writes.go, hints.go, deletes.go,
//	                 queries.go, entropy.go, services.go: the steps of openParts
//	place.go         the place of the node; idle.go: the idle server; unjoined.go: who is refused
//	folder.go        the mark; adopt.go: folders of another server are adopted; survey.go: what these have
//	boot.go          whether the machine went down while the node ran
//	membership.go    what meta nodes ask and say: join, leave, who are you
//	listener.go      one port for several servers and protocols; certificates.go
//	config.go        influxdb.conf; engineconfig.go: the engine's sections; foreign.go: files of other products
//	authorize.go     what users may do; needs.go: what each statement needs; restrictions.go; ldap.go
//	store.go         what the executor of InfluxQL takes for the store; http.go: what the HTTP API does
//	sweep.go         removes shards that were dropped
//	clocks.go        what time it is here and for others; memory.go: how much memory there is
//	observe.go       statistics and diagnostics; metrichelp.go and enginehelp.go say what each one counts
//	overview.go      what the page asks of this node; shardstatus.go, querylog.go, disks.go
//	command.go       the commands of influxd
//
// Begin with Open and openParts in node.go.
package datanode
