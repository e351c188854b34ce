package main

// row is a group of panels under a title.
type row struct {
	title  string
	only   string // the kind of the only data source that has it; empty for all
	panels []panel
}

// panel is one chart or number.
type panel struct {
	title   string
	help    string // what it shows, and what to do about it
	width   int    // of 24
	number  bool   // the last value, and no chart
	stacked bool
	unit    string
	warn    *step // where numbers and lines change their colour
	alarm   *step
	below   bool // they do so below the steps, and not above
	queries []query
}

// step is a value from which on something is to be looked at.
type step float64

func at(v float64) *step { s := step(v); return &s }

// Units of Grafana.
const (
	share        = "percentunit"
	count        = "short"
	seconds      = "s"
	milliseconds = "ms"
	nanoseconds  = "ns"
	size         = "bytes"
	sizeRate     = "Bps"
	perSecond    = "ops"
)

// line is a field of a statistic, for each node.
func line(statistic, field string) query {
	return query{legend: "{{nodeID}}", statistic: statistic, field: field, by: []string{"nodeID"}}
}

// sum is a field of a statistic, of all nodes together.
func sum(legend, statistic, field string) query {
	return query{legend: legend, statistic: statistic, field: field}
}

// rate is how much a counter grows in a second, of all nodes together.
func rate(legend, statistic, field string) query {
	return query{legend: legend, statistic: statistic, field: field, rate: true}
}

// greatest makes a query ask for the greatest value.
func greatest(q query) query { q.greatest = true; return q }

// mean is what one event of a counter took, for each node: the growth of total by that of events.
func mean(statistic, total, events string) query {
	q := line(statistic, total)
	q.per, q.rate = events, true
	return q
}

// part is what a field is of another one, for each node.
func part(statistic, field, of string) query {
	q := line(statistic, field)
	q.per = of
	return q
}

// between is a field of a statistic that a node has for each other node.
func between(statistic, field, legend string) query {
	q := query{legend: legend, statistic: statistic, field: field, tags: []string{"node"}}
	q.by = q.series()
	return q
}

var rows = []row{
	{title: "Agreement", panels: []panel{
		{
			title: "Shards that agree", number: true, width: 4, unit: share, warn: at(1), alarm: at(0.9), below: true,
			help: "The part of all shards with several owners whose copies held the same data when they were last " +
				"compared.",
			queries: []query{{legend: "agree", statistic: "agreement", field: "equal", per: "shards"}},
		},
		{
			title: "Differ", number: true, width: 4, unit: count, warn: at(1),
			help:    "Shards whose copies differ. They are repaired automatically: see influxd-ctl entropy repairs.",
			queries: []query{sum("differ", "agreement", "diff")},
		},
		{
			title: "Missing", number: true, width: 4, unit: count, warn: at(1),
			help:    "Shards of which an owner has no copy, or lost what it had. They are repaired automatically.",
			queries: []query{sum("missing", "agreement", "missing")},
		},
		{
			title: "In conflict", number: true, width: 4, unit: count, alarm: at(1),
			help:    "Shards that a person has to decide about: a field has two types. See influxd-ctl entropy resolve.",
			queries: []query{sum("conflict", "agreement", "conflict")},
		},
		{
			title: "Damaged copies", number: true, width: 4, unit: count, alarm: at(1),
			help:    "Copies with a damaged file. They are healed from another owner: see influxd-ctl entropy show.",
			queries: []query{sum("corrupt", "agreement", "corrupt")},
		},
		{
			title: "Last full check", number: true, width: 4, unit: seconds, warn: at(1800), alarm: at(7200),
			help:    "Seconds since the node that has waited for longest has compared all of its shards.",
			queries: []query{greatest(sum("since the last check", "agreement", "checkedSec"))},
		},
		{
			title: "Shards by what is known of them", width: 12, unit: count, stacked: true,
			help: "Unknown are shards that were not compared yet, of which an owner is away, or for which writes wait in " +
				"hinted handoff.",
			queries: []query{
				sum("equal", "agreement", "equal"), sum("unknown", "agreement", "unknown"), sum("diff", "agreement", "diff"),
				sum("missing", "agreement", "missing"), sum("conflict", "agreement", "conflict"),
				sum("corrupt", "agreement", "corrupt"),
			},
		},
		{
			title: "How long shards have differed", width: 6, unit: seconds, warn: at(3600),
			help:    "Of the shard that has differed for longest, by the node that compares it. Conflicts do not count.",
			queries: []query{line("agreement", "oldestSec")},
		},
		{
			title: "Nodes that do not answer", width: 6, unit: seconds, warn: at(60), alarm: at(300),
			help:    "For how long a node has not answered another one.",
			queries: []query{between("node", "awaySec", "{{node}} to {{nodeID}}")},
		},
	}},
	{title: "Repairs", panels: []panel{
		{
			title: "Repairs", width: 6, unit: count,
			help: "Failed are repairs that are to be tried again: influxd-ctl entropy repairs says why.",
			queries: []query{
				sum("run", "ae", "jobsActive"), sum("wait or run", "ae", "queueDepth"),
				sum("failed", "agreement", "failedQueued"), sum("nodes that are paused", "agreement", "paused"),
			},
		},
		{
			title: "Points repaired", width: 6, unit: perSecond,
			help:    "Points that repairs wrote, each field by itself.",
			queries: []query{rate("points", "ae", "pointsRepaired")},
		},
		{
			title: "Bytes of repairs", width: 6, unit: sizeRate,
			help:    "What repairs read from other nodes and sent to them. max-rate bounds it.",
			queries: []query{rate("read", "ae", "bytesRx"), rate("sent", "ae", "bytesTx")},
		},
		{
			title: "Conflicts and errors", width: 6, unit: perSecond,
			help: "Points of which owners had different values, repairs that ended with points that an owner refuses, and " +
				"what failed in checks and repairs.",
			queries: []query{
				rate("values decided", "ae", "conflicts"), rate("repairs in conflict", "ae", "repairsInConflict"),
				rate("errors", "ae", "errors"),
			},
		},
	}},
	{title: "Hinted handoff", panels: []panel{
		{
			title: "Bytes that wait", width: 6, unit: size,
			help:    "On the disk of the first node, for the node with the ID behind it.",
			queries: []query{between("hh_node", "queueBytes", "{{nodeID}} for node {{node}}")},
		},
		{
			title: "Oldest entry", width: 6, unit: seconds, warn: at(3600),
			help:    "Entries older than max-age are dropped, and a repair has to bring what was in them.",
			queries: []query{between("hh_node", "oldestSec", "{{nodeID}} for node {{node}}")},
		},
		{
			title: "Oldest delete", width: 6, unit: seconds, warn: at(900),
			help:    "A node that is away has not run it: it still has the points.",
			queries: []query{between("hh_node", "oldestDeleteSec", "{{nodeID}} for node {{node}}")},
		},
		{
			title: "Points delivered, entries dropped", width: 6, unit: perSecond,
			help: "Dropped entries are repaired: see How long shards have differed.",
			queries: []query{
				of(rate("points delivered", "hh_node", "writeNodeReqPoints"), "node"),
				of(rate("requests failed", "hh_node", "writeNodeReqFail"), "node"),
				of(rate("entries dropped", "hh_node", "writeDropped"), "node"),
				of(rate("writes that did not fit", "hh_node", "writeBlocked"), "node"),
			},
		},
	}},
	{title: "Writes", panels: []panel{
		{
			title: "Writes", width: 8, unit: perSecond,
			help: "Writes that nodes coordinated, by how they ended.",
			queries: []query{
				rate("ok", "write", "writeOk"), rate("failed", "write", "writeError"), rate("timed out", "write", "writeTimeout"),
			},
		},
		{
			title: "Points", width: 8, unit: perSecond,
			help: "Each point is counted once for each owner.",
			queries: []query{
				rate("written by the node itself", "write", "pointReqLocal"),
				rate("sent to other nodes", "write", "pointReqRemote"),
				rate("put into hinted handoff", "write", "pointReqHH"), rate("dropped", "write", "writeDrop"),
			},
		},
		{
			title: "Mean time of a write", width: 8, unit: nanoseconds,
			help:    "From the request of the client to the answer.",
			queries: []query{mean("httpd", "writeReqDurationNs", "writeReq")},
		},
	}},
	{title: "Queries", panels: []panel{
		{
			title: "Queries", width: 8, unit: perSecond,
			help: "Queries of clients and continuous queries.",
			queries: []query{
				rate("ended", "queryExecutor", "queriesFinished"), rate("failed", "queryExecutor", "queriesFailed"),
				rate("ended for lack of memory", "queryMemory", "queriesEnded"),
			},
		},
		{
			title: "Mean time of a query", width: 8, unit: nanoseconds,
			help:    "With log-queries-after, slow ones are in the log of the node.",
			queries: []query{mean("queryExecutor", "queryDurationNs", "queriesFinished")},
		},
		{
			title: "Queries that run", width: 4, unit: count,
			help: "Slow are those that have run for longer than log-queries-after.",
			queries: []query{
				sum("run", "queryExecutor", "queriesActive"), sum("slow", "queryExecutor", "queriesSlow"),
			},
		},
		{
			title: "Memory of queries", width: 4, unit: share, warn: at(0.8),
			help:    "What they hold of what they may hold.",
			queries: []query{part("queryMemory", "bytes", "limitBytes")},
		},
	}},
	{title: "Meta nodes", only: prometheus.kind, panels: []panel{
		{
			title: "Meta nodes with a leader", number: true, width: 4, unit: count, alarm: at(1), below: true,
			help:    "Without a leader nothing of the metadata changes: no database, user, node or shard group.",
			queries: []query{sum("with a leader", "meta", "hasLeader")},
		},
		{
			title: "Since the leader was heard", width: 10, unit: seconds, warn: at(5),
			help:    "0 on the leader itself.",
			queries: []query{line("meta", "contactSec")},
		},
		{
			title: "Elections", width: 5, unit: count,
			help:    "The term grows with each. Many are a sign of a slow disk or network.",
			queries: []query{line("meta", "term")},
		},
		{
			title: "Entries applied", width: 5, unit: count,
			help:    "The last entry of the log that is in the state of a meta node: all have the same, soon.",
			queries: []query{line("meta", "appliedIndex")},
		},
	}},
	{title: "Disk and process", panels: []panel{
		{
			title: "Free disk", width: 6, unit: share, warn: at(0.1), alarm: at(0.05), below: true,
			help: "Of the file system of each folder. With less than 5 % no repair begins; when the disk is full, writes " +
				"are refused.",
			queries: []query{{
				legend: "{{nodeID}} {{path}}", statistic: "disk", field: "freeBytes", per: "totalBytes", tags: []string{"path"},
				by: []string{"nodeID", "path"},
			}},
		},
		{
			title: "Bytes of shards", width: 6, unit: size,
			help:    "Files and WAL of all shards.",
			queries: []query{of(line("shard", "diskBytes"), "id")},
		},
		{
			title: "Clocks", width: 6, unit: milliseconds,
			help:    "How far the clock of a node is ahead of another one's. Set both with NTP when that is a second or more.",
			queries: []query{between("clock", "skewMs", "{{node}} seen by {{nodeID}}")},
		},
		{
			title: "Heap", width: 3, unit: size,
			help:    "Memory that Go holds for the node.",
			queries: []query{line("runtime", "HeapInUse")},
		},
		{
			title: "Goroutines", width: 3, unit: count,
			help:    "One that grows without end is a fault worth a report.",
			queries: []query{line("runtime", "NumGoroutine")},
		},
	}},
}

// of tells that a statistic has several series for each node, by a tag.
func of(q query, tags ...string) query { q.tags = tags; return q }
