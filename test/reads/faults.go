package reads

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"concord/test/process"
)

// faults does the faults of the plan.
type faults struct {
	*campaign
	images map[string]imageOf // by name of the node
}

// imageOf is an image of a node's folders.
type imageOf struct {
	dir  string
	made time.Time
}

// wait lets time pass; it is the only clock of the faults.
func wait(d time.Duration) { <-time.After(d) }

// inject does a fault, holds it, undoes it, and waits until the node answers.
func (c *faults) inject(i int, f fault) {
	for _, n := range c.nodes() {
		if !n.Running() {
			c.t.Fatalf("%s ended by itself: %v", n.Name, n.End())
		}
	}
	if f.kind.destroys() && !c.awaitWhole() {
		c.event("not all copies are whole after %v: %v have not recovered; no data is destroyed now",
			c.healLimit, c.trouble.unrecovered())
		c.t.Errorf("fault %d: not all copies are whole after %v", i, c.healLimit)
		c.figures.skip(fmt.Sprintf("%v, as not all copies are whole: a kill instead", f.kind))
		f.kind = kill
	}
	c.makeImages(f)
	n := c.nodes()[f.node]
	c.event("fault %d: %v (%s)", i, f, n.Name)
	c.figures.fault(f.kind)
	switch f.kind {
	case hang:
		c.hang(n, f)
	case isolate:
		c.isolate(n, f)
	case clock:
		if err := n.SetClock(f.skew); err != nil {
			c.t.Fatal(err)
		}
		wait(f.hold)
		if err := n.SetClock(0); err != nil {
			c.t.Fatal(err)
		}
	case cut:
		c.cut(n, c.nodes()[f.peer], f)
	default:
		c.down(n, f)
	}
	c.event("undone: fault %d", i)
	wait(f.gap)
}

// makeImages makes the image that a fault asks for, and the one that it needs.
func (c *faults) makeImages(f fault) {
	if f.image {
		c.image(c.nodes()[(f.node+f.peer)%len(c.nodes())])
	}
	if f.kind != rollBack {
		return
	}
	n := c.nodes()[f.node]
	if old, ok := c.images[n.Name]; !ok || time.Since(old.made) < f.age {
		if !ok {
			c.image(n)
		}
		wait(f.age)
	}
}

// hang stops a process for a while.
func (c *faults) hang(n *process.Node, f fault) {
	c.trouble.touch(n.Name)
	end := c.trouble.part(n.Name, "")
	n.Signal(syscall.SIGSTOP)
	wait(f.hold)
	n.Signal(syscall.SIGCONT)
	n.AwaitUp()
	end()
}

// isolate cuts a node off from all others for a while.
func (c *faults) isolate(n *process.Node, f fault) {
	c.trouble.touch(n.Name)
	end := c.trouble.part(n.Name, "")
	for _, link := range []process.Link{{Mode: f.mode}, {}} {
		for _, o := range append(slices.Clone(c.cluster.Meta), c.nodes()...) {
			if o != n {
				c.cluster.Links.Set(n.Name, o.Name, link)
				c.cluster.Links.Set(o.Name, n.Name, link)
			}
		}
		if link.Mode != process.Open {
			wait(f.hold)
			// What the node took alone the others lack; they hear of it now.
			for _, o := range c.nodes() {
				c.trouble.touch(o.Name)
			}
		}
	}
	n.AwaitUp()
	end()
}

// cut cuts the link between two nodes for a while, in one direction or both.
func (c *faults) cut(n, peer *process.Node, f fault) {
	a, b := n.Name, peer.Name
	c.trouble.touch(a, b)
	end := c.trouble.part(a, b)
	for _, link := range []process.Link{{Mode: f.mode}, {}} {
		c.cluster.Links.Set(a, b, link)
		if !f.oneWay {
			c.cluster.Links.Set(b, a, link)
		}
		if link.Mode != process.Open {
			wait(f.hold)
		}
	}
	end()
}

// down kills a node, and starts it, or another one in its place, with all of its folders or less.
func (c *faults) down(n *process.Node, f fault) {
	c.trouble.touch(n.Name)
	end := c.trouble.part(n.Name, "")
	n.Stop(syscall.SIGKILL)
	if f.kind.destroys() {
		c.trouble.loseDisk(n.Name)
	}
	switch f.kind {
	case wipe:
		n.Wipe("data", "wal", "hh")
	case rollBack:
		image := c.images[n.Name]
		c.event("%s is as it was %v ago", n.Name, time.Since(image.made).Round(10*time.Millisecond))
		if err := n.Restore(image.dir); err != nil {
			c.t.Fatal(err)
		}
	}
	if f.kind.destroys() {
		c.forgetImage(n)
		c.members.lostData(n.Name)
	}
	wait(f.hold)
	switch f.kind {
	case replace:
		c.replace(n)
		return
	case rejoin:
		c.cluster.Rejoin(n)
	default:
		n.Start()
		n.AwaitUp()
	}
	end()
}

// replace puts an empty node in the place of one that is gone for ever, with what it did not tell.
func (c *faults) replace(old *process.Node) {
	var end func()
	n := c.cluster.Replace(old, func(n *process.Node) {
		c.trouble.touch(n.Name)
		end = c.trouble.part(n.Name, "")
		c.members.begin(old, n)
	})
	c.members.forget(old)
	now := time.Now()
	c.trouble.recovered(old.Name, now, now) // it owns nothing any more
	c.event("%s is in the place of %s", n.Name, old.Name)
	end()
}

// image makes an image of a node's folders.
func (c *faults) image(n *process.Node) {
	dir := filepath.Join(c.cluster.Dir, n.Name+".image")
	began := time.Now()
	if err := n.Image(dir); err != nil {
		c.t.Fatal(err)
	}
	c.images[n.Name] = imageOf{dir, began}
	c.event("made an image of %s in %v", n.Name, time.Since(began).Round(time.Millisecond))
}

func (c *faults) forgetImage(n *process.Node) {
	if old, ok := c.images[n.Name]; ok {
		delete(c.images, n.Name)
		if err := os.RemoveAll(old.dir); err != nil {
			c.t.Error(err)
		}
	}
}
