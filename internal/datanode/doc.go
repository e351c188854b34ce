// Package datanode assembles a data node.
package datanode

import (
	_ "github.com/influxdata/influxdb/coordinator"
	_ "github.com/influxdata/influxdb/monitor"
	_ "github.com/influxdata/influxdb/services/continuous_querier"
	_ "github.com/influxdata/influxdb/services/httpd"
	_ "github.com/influxdata/influxdb/services/meta"
	_ "github.com/influxdata/influxdb/services/precreator"
	_ "github.com/influxdata/influxdb/services/retention"
	_ "github.com/influxdata/influxdb/services/subscriber"
	_ "github.com/influxdata/influxdb/tsdb/engine"
	_ "github.com/influxdata/influxdb/tsdb/index"

	_ "github.com/BurntSushi/toml"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/hashicorp/raft"
	_ "github.com/hashicorp/raft-boltdb/v2"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/zeebo/xxh3"
	_ "go.etcd.io/bbolt"
	_ "go.uber.org/goleak"
	_ "go.uber.org/zap"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
	_ "concord/internal/entropy"
	_ "concord/internal/rpc"
	_ "pgregory.net/rapid"
)
