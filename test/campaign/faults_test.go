//go:build campaign

package campaign

import (
	"slices"
	"syscall"
	"time"

	"concord/test/process"
)

// wait lets time pass; it is the only clock of the faults.
func wait(d time.Duration) {
	<-time.After(d)
}

// inject does a fault of a data node, holds it, undoes it, and waits until all data nodes answer.
func (c *campaign) inject(f fault) {
	data, links := c.cluster.DataNodes(), c.cluster.Links
	n := data[f.node]
	c.event("%v (%s)", f, n.Name)
	switch f.kind {
	case kill, restart:
		sig := syscall.SIGKILL
		if f.kind == restart {
			sig = syscall.SIGTERM
		}
		n.Stop(sig)
		wait(f.hold)
		n.Start()
	case pause:
		n.Signal(syscall.SIGSTOP)
		wait(f.hold)
		n.Signal(syscall.SIGCONT)
	case powerCut:
		for _, n := range data {
			n.Signal(syscall.SIGKILL)
		}
		for _, n := range data {
			n.Reap()
		}
		wait(f.hold)
		for _, n := range data {
			n.Start()
		}
	case isolate, slow:
		link := process.Link{Mode: f.mode}
		if f.kind == slow {
			link = process.Link{Delay: f.delay}
		}
		others := c.others(n)
		c.setBoth(n, others, link)
		wait(f.hold)
		c.setBoth(n, others, process.Link{})
	case repeat:
		c.setBoth(n, data, process.Link{Mode: process.Repeat, Late: f.late, Seed: f.seed})
		wait(f.hold)
		c.setBoth(n, data, process.Link{})
	case full:
		c.fillDisk(n, f)
	case cutPair:
		a, b := n.Name, data[f.peer].Name
		for _, link := range []process.Link{{Mode: f.mode}, {}} {
			links.Set(a, b, link)
			if !f.oneWay {
				links.Set(b, a, link)
			}
			if link.Mode != process.Open {
				wait(f.hold)
			}
		}
	case cutMeta:
		c.setBoth(n, c.cluster.Meta, process.Link{Mode: f.mode})
		wait(f.hold)
		c.setBoth(n, c.cluster.Meta, process.Link{})
	case wipe, replace:
		c.destroy(n, f)
	}
	for _, n := range c.cluster.DataNodes() {
		n.AwaitUp()
	}
	c.event("undone: %v %d", f.kind, f.node+1)
	wait(f.gap)
}

// injectMeta does a fault of a meta node, beside those of data nodes.
func (c *campaign) injectMeta(f fault) {
	c.hurtMeta(f)
	c.event("undone: %v %d", f.kind, f.node+1)
	wait(f.gap)
}

func (c *campaign) hurtMeta(f fault) {
	c.members.Lock()
	defer c.members.Unlock()
	c.event("%v", f)
	n := c.cluster.Meta[f.node]
	switch f.kind {
	case metaKill:
		n.Stop(syscall.SIGKILL)
		wait(f.hold)
		n.Start()
	case metaPause:
		n.Signal(syscall.SIGSTOP)
		wait(f.hold)
		n.Signal(syscall.SIGCONT)
	case metaCut:
		c.setBoth(n, c.others(n), process.Link{Mode: f.mode})
		wait(f.hold)
		c.setBoth(n, c.others(n), process.Link{})
	}
}

// moveClock holds the clock of a data node off, beside faults of data nodes.
func (c *campaign) moveClock(f fault) {
	if !*clocksFlag {
		c.event("skipped: %v", f)
		return
	}
	n := c.cluster.DataNodes()[f.node]
	c.event("%v (%s)", f, n.Name)
	for _, off := range []time.Duration{f.skew, 0} {
		if err := n.SetClock(off); err != nil {
			c.t.Error(err)
		}
		if off != 0 {
			wait(f.hold)
		}
	}
	c.event("undone: %v %d", f.kind, f.node+1)
	wait(f.gap)
}

// destroy takes a data node and all that it has away. It gets its place back with empty folders, or another one gets
// it. Until then all other copies must have all that was acknowledged.
func (c *campaign) destroy(n *process.Node, f fault) {
	if why := c.settle(); why != "" {
		c.t.Errorf("skipped: no data is destroyed, as copies are not whole and equal after %v: %s", settleTime, why)
		return
	}
	c.event("all copies are whole: %s loses its own", n.Name)
	n.Stop(syscall.SIGKILL)
	wait(f.hold)
	c.members.Lock()
	defer c.members.Unlock()
	if f.kind == wipe {
		c.cluster.Rejoin(n)
		return
	}
	fresh := c.cluster.Replace(n, func(*process.Node) {})
	c.event("%s is in the place of %s", fresh.Name, n.Name)
}

// fillDisk holds a full disk. A node may end for it, and must start once there is space.
func (c *campaign) fillDisk(n *process.Node, f fault) {
	if _, _, err := n.Disk(); err != nil {
		c.event("skipped: %s has no disk that could be full: %v", n.Name, err)
		return
	}
	filled := make(chan struct{})
	go func() { defer close(filled); n.FillDisk(f.leave, f.hold) }()
	if f.killed {
		wait(f.hold / 3)
		if n.Running() {
			n.Signal(syscall.SIGKILL)
			n.Reap()
		}
		n.Start()
	}
	<-filled
	// One that has just started may end still, for what it could not write before there was space.
	process.Poll(time.Minute, func() bool { return n.Up() || !n.Running() })
	if !n.Running() {
		c.event("%s ended while its disk was full: %v", n.Name, n.End())
		n.Start()
	}
}

func (c *campaign) others(n *process.Node) (out []*process.Node) {
	for _, o := range append(slices.Clone(c.cluster.Meta), c.cluster.DataNodes()...) {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

func (c *campaign) setBoth(n *process.Node, others []*process.Node, link process.Link) {
	for _, o := range others {
		if o == n { // which always reaches itself, and does so for an answer out of a copy that may not be whole
			continue
		}
		c.cluster.Links.Set(n.Name, o.Name, link)
		c.cluster.Links.Set(o.Name, n.Name, link)
	}
}
