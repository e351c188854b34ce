package datanode

import "concord/internal/config"

const (
	multiplexed = "all calls between two nodes share one connection"
	noFlux      = "Flux is not part of this build"
)

// foreign is what files of InfluxDB 1.x, of InfluxDB Enterprise and of influxdb-cluster have.
var foreign = config.Foreign{
	Renamed: map[string]string{
		"[coordinator]":                        "[cluster]",
		"[cluster] https-insecure-certificate": "[cluster] https-insecure-tls",
		"[cluster] max-concurrent-deletes":     "[data] max-concurrent-deletes",
	},
	Idle: map[string]string{
		"reporting-disabled":  "nothing is ever reported",
		"reporting-enabled":   "nothing is ever reported",
		"gossip-frequency":    "nodes hear of changes at once",
		"compact-series-file": "series files are compacted while the node runs",
		"hardening-enabled": noFlux +
			", and nothing else reads files or addresses that a client names",
		"[enterprise]":                           "Concord needs no license",
		"[meta] retention-autocreate":            "the setting of the meta nodes counts",
		"[meta] logging-enabled":                 "[logging] level says what is logged",
		"[data] engine":                          "there is one storage engine, tsm1",
		"[cluster] pool-max-idle-streams":        multiplexed,
		"[cluster] pool-max-idle-time":           multiplexed,
		"[cluster] max-remote-write-connections": multiplexed,
		"[cluster] allow-out-of-order-writes":    "what waits in hinted handoff has versions, so that its order does not matter",
		"[cluster] shard-reader-timeout": "a node that does not answer is given up after 15 s, and " +
			"query-timeout ends queries on all nodes",
		"[cluster] rpc-resettable-read-timeout":  "a node that does not answer is given up after 15 s",
		"[cluster] rpc-resettable-write-timeout": "a node that does not answer is given up after 15 s",
		"[cluster] cluster-tracing":              "[meta] cluster-tracing of the meta nodes logs who asked for what",
		"[monitor] remote-collect-interval":      "SHOW STATS asks the node that it is sent to",
		"[flux-controller]":                      noFlux,
		"[ifql]":                                 noFlux,
	},
}
