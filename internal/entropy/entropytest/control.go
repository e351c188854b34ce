package entropytest

import (
	"context"

	"concord/internal/entropy"
	"concord/internal/entropy/retype"
)

// Control is another node's service.
type Control struct {
	Know     entropy.NodeStatus
	Err      error // of every call
	Repaired []uint64
	Canceled []uint64
	Checked  []uint64
	Paused   bool
	MaxRate  uint64
	Records  []entropy.RepairRecord
	Dry      entropy.DryRun
	Retyped  []retype.Field
}

func (c *Control) Check(_ context.Context, id uint64) error {
	if c.Err == nil {
		c.Checked = append(c.Checked, id)
	}
	return c.Err
}

func (c *Control) SetMaxRate(_ context.Context, bytes uint64) error {
	if c.Err == nil {
		c.MaxRate = bytes
	}
	return c.Err
}

func (c *Control) Pause(_ context.Context, paused bool) error {
	if c.Err == nil {
		c.Paused = paused
	}
	return c.Err
}

func (c *Control) Resolve(_ context.Context, id uint64, f retype.Field) ([]entropy.Resolved, error) {
	c.Retyped = append(c.Retyped, f)
	return []entropy.Resolved{
		{Node: "data1:8088"},
		{Node: "data2:8088", Kept: retype.Kept{Path: "/x/values.lp", Points: 3}},
	}, c.Err
}

func (c *Control) Diff(context.Context, uint64) (entropy.DryRun, error) { return c.Dry, c.Err }

func (c *Control) Repairs(context.Context) (entropy.NodeRepairs, error) {
	return entropy.NodeRepairs{Paused: c.Paused, MaxRate: c.MaxRate, Repairs: c.Records}, c.Err
}

func (c *Control) Status(context.Context) (entropy.NodeStatus, error) { return c.Know, c.Err }

func (c *Control) Repair(_ context.Context, id uint64) error {
	if c.Err == nil {
		c.Repaired = append(c.Repaired, id)
	}
	return c.Err
}

func (c *Control) CancelRepair(_ context.Context, id uint64) error {
	if c.Err == nil {
		c.Canceled = append(c.Canceled, id)
	}
	return c.Err
}
