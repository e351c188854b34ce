// Package ctl is influxd-ctl: the commands of an operator. A command asks one meta node over its HTTP API, and prints
// the answer. Where data nodes have to do something, the meta node asks them (package operator). The package links
// neither the engine nor Raft, and a test sees to that.
//
// # How a command runs
//
//	influxd-ctl show-shards -v
//	   │  Setup       the commands and the global flags (cobra)
//	   ▼
//	client.showShards     a method for each command returns it; its RunE checks arguments and calls
//	   ▼
//	client.call           GET /show-shards ──► the meta node at -bind
//	   │  configure       flags, and -config where no flag says it: address, TLS, shared secret
//	   │  send            credentials; follows a redirect to the leader, with the credentials
//	   │  explain         an error is one line that says what to do
//	   ▼
//	table, printJSON      the answer
//
// The JSON of the answers is in packages meta/wire and entropy/api, which the servers use as well. Tables, texts and
// flags are those of InfluxDB Enterprise where it has the command.
//
// Some commands are more than one question:
//
//   - join and leave look for a meta node and a data node on this machine, and add or remove both.
//   - backup asks which copies to read (the plan), fetches each shard into a file, and writes a manifest. When a copy
//     cannot be read, another owner is tried once. What is left is a gap, which the manifest and the exit code tell
//     of.
//   - restore first reads all files that it will send, then makes the metadata, and sends each shard.
//   - rebalance prints the events of a run, which the meta node drives, until it has ended.
//   - top and entropy watch draw the state again and again.
//
// A question waits 10 seconds for its answer, and what takes longer has a client of its own: slow waits a minute, and
// patient as long as a shard takes.
//
// # The files
//
//	ctl.go         Setup, and how tables are printed
//	client.go      client: global flags, requests, credentials, errors
//	args.go        checks of arguments; completion.go: completion for shells
//	nodes.go       show, add, remove and update nodes, and their labels
//	join.go        join and leave
//	shards.go      show-shards and truncate-shards
//	copies.go      copy-shard, its status and its end, and remove-shard
//	rebalance.go   rebalance
//	backup.go      backup; restore.go: restore. Package backup has the format
//	entropy.go     entropy show, repair and kill-repair; repairs.go: check, pause, repairs, watch and diff
//	resolve.go     entropy resolve
//	adopt.go       adopt; adoptcluster.go: of a whole influxdb-cluster
//	ldap.go        ldap
//	token.go       token
//	top.go         top: the screen and the keys; topview.go: its lines
//
// Read client.go, then a short command such as truncateShards.
package ctl
