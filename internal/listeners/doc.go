// Package listeners takes the points of clients that speak the protocols of graphite, collectd and OpenTSDB, or send
// line protocol in UDP packets. It writes them through the cluster.
//
// Each protocol has its file: graphite.go, collectd.go, opentsdb.go, udp.go. The settings and what reads the bytes of
// graphite and collectd are those of the engine. Its services themselves are not: their Close ends the goroutines that
// write before the one that makes batches, so that it drops what was read, and may wait for ever. They also write
// without a consistency level.
//
// Points go one way: a socket (packets, streams) is read, a protocol makes points of the bytes, batches gathers them,
// and target writes each batch. Close ends that way from its beginning, and so loses nothing that was read: sockets
// first, then what reads them, then the batches.
package listeners
