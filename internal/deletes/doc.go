// Package deletes is the whole life of a delete: it is announced to all nodes, kept for those that are away, run, and
// remembered, so that nothing that is older comes back. Dropped shards are here, too.
package deletes
