// Package page is the page of the cluster: whether all replicas agree, what differs, and what is being done. Data nodes
// and meta nodes serve it at /cluster; docs/page.md describes what it shows, and its JSON.
//
//	page.go      puts the parts together; the routes, and who may use each
//	session.go   logins
//	source.go    asks all nodes, and makes one snapshot of what they say
//	state.go     the JSON of the page
//	build.go     makes that JSON of a snapshot, for one user
//	hub.go       makes the snapshots while a page is open, and sends what changed to all pages
//	actions.go   what users can do beside /shard-repair: a query, the end of a query, the owners of a shard
//	static/      the page itself
//
// # How the state reaches the pages
//
// While at least one page is open, the node asks all nodes every two seconds, once for all pages. The state is two
// levels of objects: sections, and in each section values by their keys. What changed is sent to the pages as one
// message of the same shape, where a new value replaces the old one, and null removes it. Users with the same rights
// get the same bytes, which are made once. So a hundred pages cost little more than one, and a cluster in which
// nothing happens sends nothing but a sign of life.
//
// # Who may see what
//
// The page logs users in by itself: a form gets a token, which a cookie carries that no script can read. The token is
// only known to the memory of one node. Basic authentication is accepted, but never asked for: a browser would keep
// the password, and send it for pages of other sites, too. Nothing but the files of the page is shown without a user
// when authentication is on. What changes something needs an administrator, a request of the page's own site, and JSON.
package page
