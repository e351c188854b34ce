package metaconfig

import "concord/internal/config"

// foreign is what files of InfluxDB Enterprise and of influxdb-cluster have.
var foreign = config.Foreign{
	Renamed: map[string]string{"[meta] https-insecure-certificate": "[meta] https-insecure-tls"},
	Idle: map[string]string{
		"bind-address":                     "a meta node listens at [meta] bind-address and http-bind-address",
		"gossip-frequency":                 "nodes hear of changes at once",
		"[enterprise]":                     "Concord needs no license",
		"[meta] gossip-frequency":          "nodes hear of changes at once",
		"[meta] announcement-expiration":   "a data node stays a member until remove-data",
		"[meta] logging-enabled":           "[logging] level says what is logged",
		"[meta] raft-portal-auth-required": "meta nodes know each other by https-ca and their certificates",
		"[meta] raft-dialer-auth-required": "meta nodes know each other by https-ca and their certificates",
		"[meta] consensus-timeout":         "a change waits for its commit for 10s",
	},
}
