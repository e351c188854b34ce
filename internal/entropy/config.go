package entropy

import (
	"errors"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/toml"
)

// Config is the [anti-entropy] section of influxdb.conf.
type Config struct {
	Enabled           bool          `toml:"enabled" doc:"Compare the replicas of each shard, and repair them."`
	CheckInterval     toml.Duration `toml:"check-interval" doc:"Time between two status checks."`
	MaxFetch          int           `toml:"max-fetch" doc:"Shards that this node copies or repairs at the same time."`
	MaxSync           int           `toml:"max-sync" doc:"How many of these compare and merge points; the others copy the files of missing shards."`
	AutoRepairMissing bool          `toml:"auto-repair-missing" doc:"Repair automatically the shards that an owner lacks."`
	AutoRepairDiff    bool          `toml:"auto-repair-diff" doc:"Repair automatically the shards whose contents differ."`
	Settle            toml.Duration `toml:"settle" doc:"Data that is younger than this is not compared."`
	MaxRate           toml.Size     `toml:"max-rate" doc:"Bytes a second that are read and sent for repair; 0 is no limit."`
	ScrubInterval     toml.Duration `toml:"scrub-interval" doc:"Time within which every block is read again from disk; 0s is never."`
}

// NewConfig returns the defaults.
func NewConfig() Config {
	return Config{
		Enabled:           true,
		CheckInterval:     toml.Duration(5 * time.Minute),
		MaxFetch:          10,
		MaxSync:           1,
		AutoRepairMissing: true,
		AutoRepairDiff:    true,
		Settle:            toml.Duration(time.Minute),
		MaxRate:           48 << 20,
		ScrubInterval:     toml.Duration(720 * time.Hour),
	}
}

// Validate returns the first bad setting, with its name and the reason.
func (c Config) Validate() error {
	switch {
	case !c.Enabled:
		return nil
	case c.CheckInterval <= 0:
		return errors.New("check-interval must be positive")
	case c.MaxFetch < 1:
		return fmt.Errorf("max-fetch must be at least 1, not %d", c.MaxFetch)
	case c.MaxSync < 1:
		return fmt.Errorf("max-sync must be at least 1, not %d", c.MaxSync)
	case c.Settle < 0:
		return errors.New("settle must not be negative")
	case c.ScrubInterval < 0:
		return errors.New("scrub-interval must not be negative; 0 is never")
	}
	if _, err := c.MaxRate.ToInt(); err != nil {
		return fmt.Errorf("max-rate: %w", err)
	}
	return nil
}
