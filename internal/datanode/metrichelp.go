package datanode

import "github.com/prometheus/client_golang/prometheus"

// described is what /metrics says of one field of a statistic.
type described struct {
	kind prometheus.ValueType
	help string
}

func counter(help string) described { return described{prometheus.CounterValue, help} }
func gauge(help string) described   { return described{prometheus.GaugeValue, help} }

// descriptions has the statistics of the cluster, which docs/statistics.md lists, by statistic and field. Those of the
// engine are in engineDescriptions.
var descriptions = map[string]map[string]described{
	"ae": {
		"checks":            counter("Checks that compared copies of shards."),
		"errors":            counter("Failures in checks and repairs."),
		"jobs":              counter("Repairs that began."),
		"jobsActive":        gauge("Repairs that run."),
		"queueDepth":        gauge("Repairs that wait or run."),
		"bytesRx":           counter("Bytes that repairs read from other nodes."),
		"bytesTx":           counter("Bytes that repairs sent to other nodes."),
		"pointsRepaired":    counter("Points that repairs wrote, each field by itself."),
		"conflicts":         counter("Points of which owners had different values, and one was chosen."),
		"repairsInConflict": counter("Repairs that ended with points that an owner refuses."),
	},
	"agreement": {
		"shards":       gauge("Shards with several owners that this node checks: it is the first one that can be reached."),
		"equal":        gauge("Of these shards, those whose copies held the same data when they were last compared."),
		"unknown":      gauge("Of these shards, those not compared yet, with an owner away, or with writes that wait for a copy."),
		"diff":         gauge("Of these shards, those whose copies differ."),
		"missing":      gauge("Of these shards, those of which an owner has no copy, or lost what it had."),
		"conflict":     gauge("Of these shards, those of which an owner refuses points that another one has."),
		"corrupt":      gauge("Copies on this node with a damaged file."),
		"oldestSec":    gauge("For how many seconds the shard is diff or missing that is so for longest; 0 for none."),
		"checkedSec":   gauge("Seconds since the last check of all shards ended, or since the start."),
		"failedQueued": gauge("Shards whose repair failed, and is to be tried again."),
		"paused":       gauge("1 while this node takes no repairs because an operator said so, else 0."),
	},
	"clock": {
		"skewMs": gauge("How many milliseconds the clock of another node is ahead of this one's."),
		"off":    gauge("1 when the clock of another node is off by more than a second, else 0."),
	},
	"cluster": {
		"writeShardReq":       counter("Writes of other nodes."),
		"writeShardPointsReq": counter("Points in writes of other nodes."),
		"writeShardFail":      counter("Writes of other nodes that failed."),
		"createIteratorReq":   counter("Parts of queries of other nodes."),
		"iteratorCostReq":     counter("Questions of other nodes for the cost of a query."),
		"fieldDimensionsReq":  counter("Questions of other nodes for fields and tags."),
		"expandSourcesReq":    counter("Questions of other nodes for measurements."),
		"copyShardReq":        counter("Copies of shards to this node."),
		"removeShardReq":      counter("Removals of shards from this node."),
		"openConnections":     gauge("Connections of other nodes."),
	},
	"copies": {
		"lacking":         gauge("Copies on this node that lack something for good: a repair has to bring it."),
		"notWhole":        gauge("Copies on this node that lack something for good, or for which writes wait elsewhere."),
		"owed":            gauge("Copies of other nodes for which this node keeps writes."),
		"exchanges":       counter("Messages between data nodes about which copies are whole."),
		"exchangesFailed": counter("Such messages without an answer."),
		"announcements":   counter("Times that all other nodes were told of a copy that misses a write."),
	},
	"disk": {
		"freeBytes":  gauge("Free bytes of the file system of a folder."),
		"totalBytes": gauge("All bytes of the file system of a folder."),
	},
	"graphite": listenerDescriptions,
	"collectd": listenerDescriptions,
	"opentsdb": listenerDescriptions,
	"udp":      listenerDescriptions,
	"hh": {
		"writeShardReq":       counter("Requests that hinted handoff sent."),
		"writeShardReqPoints": counter("Points in requests that hinted handoff sent."),
	},
	"hh_database":  queueDescriptions,
	"hh_node":      queueDescriptions,
	"hh_processor": queueDescriptions,
	"httpd": {
		"valuesWrittenOK": counter("Fields of points that clients have written."),
	},
	"node": {
		"away":    gauge("1 while another data node does not answer this one, else 0."),
		"awaySec": gauge("For how many seconds another data node has not answered this one; 0 while it answers."),
	},
	"order": {
		"keys":       gauge("Fields of points that the journal of versions knows."),
		"diskBytes":  gauge("Bytes of the journal of versions on disk."),
		"superseded": counter("Fields of points that came late and were left out, because the node had newer ones."),
	},
	"queryMemory": {
		"bytes":        gauge("Bytes that the queries of this node hold."),
		"limitBytes":   gauge("Bytes that the queries of this node may hold."),
		"queriesEnded": counter("Queries that were ended because they needed more memory."),
	},
	"rpc": {
		"idleStreams":      gauge("Streams to other nodes without a call: always 0, because each call has its own."),
		"liveConnections":  gauge("Connections to other nodes that calls share."),
		"liveStreams":      gauge("Calls of other nodes that run."),
		"rpcCalls":         counter("Calls of other nodes."),
		"rpcFailures":      counter("Calls of other nodes that failed."),
		"rpcReadBytes":     counter("Bytes of answers of other nodes."),
		"rpcRetries":       counter("Calls of other nodes that were sent again, because their connection had ended."),
		"rpcWriteBytes":    counter("Bytes of questions to other nodes."),
		"singleUse":        counter("Connections to other nodes that were made for one use."),
		"singleUseOpen":    gauge("Connections to other nodes for one use that are open."),
		"totalConnections": counter("Connections to other nodes that calls share, since the start."),
		"totalStreams":     counter("Streams to other nodes: one for each call that reached a connection."),
	},
	"write": {
		"req":             counter("Writes that this node coordinated."),
		"pointReq":        counter("Points in these writes."),
		"pointReqLocal":   counter("Points of these writes that were written here."),
		"pointReqRemote":  counter("Points of these writes that were sent to other nodes."),
		"pointReqHH":      counter("Points of these writes that were put into hinted handoff."),
		"writeOk":         counter("Writes that succeeded."),
		"writeError":      counter("Writes that failed."),
		"writeTimeout":    counter("Writes that took longer than write-timeout."),
		"writeDrop":       counter("Points that were dropped."),
		"writePartial":    counter("Writes that failed although some owners have them."),
		"subWriteDrop":    counter("Writes that a subscription did not get: its queue was full, or its destination failed."),
		"pointsWrittenOK": counter("Points that were written."),
		"valuesWrittenOK": counter("Fields of points that were written."),
		"subWriteOk":      counter("Writes that went to subscriptions."),
	},
}

// queueDescriptions are of the queues for a node, of those of one database, or of one queue.
var queueDescriptions = map[string]described{
	"queueDepth":          gauge("Queues of hinted handoff for a node that have entries."),
	"queueBytes":          gauge("Bytes on disk of the queues for a node."),
	"queueTotalSize":      gauge("Bytes on disk of all queues for a node."),
	"oldestSec":           gauge("Seconds since the oldest entry for a node was queued; 0 when there is none."),
	"oldestDeleteSec":     gauge("The same, of deletes alone."),
	"bytesWritten":        counter("Bytes that were queued for a node."),
	"bytesRead":           counter("Bytes that a node was sent from its queues."),
	"writeBlocked":        counter("Writes for a node that did not fit into max-size."),
	"writeDropped":        counter("Entries for a node that were dropped."),
	"writeShardReq":       counter("Writes that were queued for a node."),
	"writeShardReqPoints": counter("Points that were queued for a node."),
	"writeNodeReq":        counter("Requests of hinted handoff to a node."),
	"writeNodeReqFail":    counter("Requests of hinted handoff to a node that failed."),
	"writeNodeReqPoints":  counter("Points that hinted handoff delivered to a node."),
}

// listenerDescriptions are of the listeners for other protocols than HTTP. None of them has all fields.
var listenerDescriptions = map[string]described{
	"bytesRx":              counter("Bytes that a listener received."),
	"pointsRx":             counter("Points that a listener received."),
	"pointsParseFail":      counter("Lines or packets that a listener could not read."),
	"pointsNaNFail":        counter("Points that a listener left out because their value is not a number."),
	"droppedPointsInvalid": counter("Points that a listener left out because they cannot be stored."),
	"readFail":             counter("Times that a listener could not receive a packet."),
	"batchesTx":            counter("Batches of a listener that were written."),
	"pointsTx":             counter("Points of a listener that were written."),
	"batchesTxFail":        counter("Batches of a listener that could not be written."),
	"pointsTxFail":         counter("Points of a listener that could not be written."),
	"connsActive":          gauge("Connections to a listener that are open."),
	"connsHandled":         counter("Connections to a listener."),
	"httpConnsHandled":     counter("Connections to a listener with requests over HTTP."),
	"tlConnsActive":        gauge("Connections to a listener with lines that are open."),
	"tlConnsHandled":       counter("Connections to a listener with lines."),
	"tlBytesRx":            counter("Bytes in lines that a listener received."),
	"tlPointsRx":           counter("Points in lines that a listener received."),
	"tlReadErr":            counter("Connections with lines that could not be read to their end."),
	"tlBadLine":            counter("Lines that a listener could not read."),
	"tlBadTime":            counter("Lines with a bad time."),
	"tlBadTag":             counter("Lines with a bad tag."),
	"tlBadFloat":           counter("Lines with a bad value."),
}

// describe returns what /metrics says of a field.
func describe(statistic, field string) described {
	for _, of := range []map[string]map[string]described{descriptions, engineDescriptions} {
		if d, ok := of[statistic][field]; ok {
			return d
		}
	}
	return described{prometheus.UntypedValue, field + " of the statistic " + statistic + "."}
}
