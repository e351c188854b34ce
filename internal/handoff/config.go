package handoff

import (
	"errors"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
)

// Config is the [hinted-handoff] section of influxdb.conf.
type Config struct {
	Enabled          bool           `toml:"enabled" doc:"Keep the writes and deletes that another data node misses, and send them when it is back."`
	Dir              string         `toml:"dir" doc:"Where the queues are: a folder for each node, with one for each shard."`
	MaxSize          itoml.Size     `toml:"max-size" doc:"Bytes on disk for one node. Writes that do not fit are dropped, and anti-entropy checks their shards at once. Deletes may take 16 MiB more."`
	MaxAge           itoml.Duration `toml:"max-age" doc:"Older writes are dropped, and anti-entropy checks their shards at once. Deletes are kept."`
	BatchSize        itoml.Size     `toml:"batch-size" doc:"Bytes that are sent in one request."`
	MaxWritesPending int            `toml:"max-writes-pending" doc:"Writes in memory for one node. With more of them, all that are under way go to its queues."`
	RetryConcurrency int            `toml:"retry-concurrency" doc:"Shards that are sent to one node at the same time."`
	RetryInterval    itoml.Duration `toml:"retry-interval" doc:"Pause after the first failure to send, of a whole node or of one queue. It doubles with each further failure."`
	RetryMaxInterval itoml.Duration `toml:"retry-max-interval" doc:"The longest pause after a failure to send."`
	RetryRateLimit   itoml.Size     `toml:"retry-rate-limit" doc:"Bytes a second that are sent to one node; 0 is no limit."`
	PurgeInterval    itoml.Duration `toml:"purge-interval" doc:"How often the queues are searched for entries older than max-age."`
}

// NewConfig returns the defaults.
func NewConfig() Config {
	return Config{
		Enabled:          true,
		Dir:              "/var/lib/influxdb/hh",
		MaxSize:          10 << 30,
		MaxAge:           itoml.Duration(168 * time.Hour),
		BatchSize:        512000,
		MaxWritesPending: 1024,
		RetryConcurrency: 20,
		RetryInterval:    itoml.Duration(time.Second),
		RetryMaxInterval: itoml.Duration(200 * time.Second),
		PurgeInterval:    itoml.Duration(time.Minute),
	}
}

// Validate returns the first bad setting, with its name and the reason.
func (c Config) Validate() error {
	if !c.Enabled {
		return nil
	}
	for _, check := range []struct {
		bad bool
		say string
	}{
		{c.Dir == "", "dir: must be set"},
		{c.MaxSize == 0, "max-size: must be above 0"},
		{c.MaxAge <= 0, "max-age: must be above 0"},
		{c.BatchSize == 0 || c.BatchSize > maxBatch, "batch-size: must be above 0 and at most 32m"},
		{c.MaxWritesPending < 1, "max-writes-pending: must be above 0"},
		{c.RetryConcurrency < 1, "retry-concurrency: must be above 0"},
		{c.RetryInterval <= 0, "retry-interval: must be above 0"},
		{c.RetryMaxInterval < c.RetryInterval, "retry-max-interval: must be at least retry-interval"},
		{c.PurgeInterval <= 0, "purge-interval: must be above 0"},
	} {
		if check.bad {
			return errors.New(check.say)
		}
	}
	return nil
}
