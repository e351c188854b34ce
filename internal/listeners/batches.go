package listeners

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"
)

// drainTime is how long Close writes what was read. A node has to stop within 30 s, and one write may take 10 s more.
const drainTime = 15 * time.Second

// batches gathers points and writes them, in batches of a size or after a time. What add took is written, also when
// close is called meanwhile.
type batches struct {
	target *target
	size   int
	wait   time.Duration
	drain  time.Duration

	in        chan models.Point
	writers   sync.WaitGroup
	abandoned atomic.Bool // writing what was left took too long
	lost      atomic.Int64
}

// newBatches starts the given number of writers. Up to pending batches wait for them; then add waits.
func newBatches(t *target, size, pending int, wait time.Duration, writers int) *batches {
	b := &batches{
		target: t, size: size, wait: wait, drain: drainTime, in: make(chan models.Point, size*pending),
	}
	for range writers {
		b.writers.Go(b.write)
	}
	return b
}

// add takes points. It must not be called once close was.
func (b *batches) add(points ...models.Point) {
	for _, p := range points {
		b.in <- p
	}
}

// close writes what add took, and returns when that is done.
func (b *batches) close() {
	close(b.in)
	late := time.AfterFunc(b.drain, func() { b.abandoned.Store(true) })
	b.writers.Wait()
	late.Stop()
	if n := b.lost.Load(); n > 0 {
		b.target.stats.add(pointsTxFail, n)
		b.target.log.Error("Points of a listener are lost: writing them took too long while the node stops",
			zap.Int64("lost", n))
	}
}

// write writes batches until the channel is closed and empty. Owners may still read a batch when its write has
// returned, so that each one has its own memory.
func (b *batches) write() {
	var batch []models.Point
	old := time.NewTimer(b.wait)
	old.Stop()
	for open := true; open; {
		var p models.Point
		select {
		case p, open = <-b.in:
			if open {
				if len(batch) == 0 {
					old.Reset(b.wait)
				}
				batch = append(batch, p)
				if len(batch) < b.size {
					continue
				}
			}
		case <-old.C:
		}
		old.Stop()
		switch {
		case len(batch) == 0:
		case b.abandoned.Load():
			b.lost.Add(int64(len(batch)))
		default:
			b.target.write(batch)
		}
		batch = nil
	}
}
