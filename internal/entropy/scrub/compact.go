package scrub

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"golang.org/x/time/rate"

	"concord/internal/compactions"
	"concord/internal/entropy/tsmfile"
)

// Gate lets the engine compact files that were verified, and no others: a compaction does not look at
// checksums, and would write a damaged block with a new one, which nobody could tell from the truth.
//
// It stands in the engine's compaction planner. A planned group of files waits, with its files taken, until
// all of them were read and found sound; then the engine gets the plan, and finds the files in the page cache. A group
// with a damaged file is given back, and the damage is told. What goes bad between the two reads is not seen.
type Gate struct {
	onDamage func(shard uint64, found []*tsmfile.Damage) // nil for nobody

	limit *rate.Limiter
	stop  context.CancelFunc
	wg    sync.WaitGroup
	wake  chan struct{}

	mu    sync.Mutex
	due   map[string]struct{}  // paths of files to verify
	files map[string]*verified // by path
}

// verified is a file that was read.
type verified struct {
	size     int64
	modified time.Time
	at       time.Time
	sound    bool
}

// stillSound is for how long a file that was verified may be compacted: longer than one waits for its turn.
const stillSound = 10 * time.Minute

// NewGate returns a gate for a store with that configuration. It reads at twice the rate at which compactions may
// write: what they read is about as much as they write, and verifying shall not hold them up. onDamage, unless it is
// nil, is told of damaged files, once for each.
func NewGate(cfg tsdb.Config, onDamage func(shard uint64, found []*tsmfile.Damage)) *Gate {
	limit := rate.NewLimiter(rate.Inf, 0)
	if n := int(cfg.CompactThroughput); n > 0 {
		limit = rate.NewLimiter(rate.Limit(2*n), max(2*n, 1<<20))
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Gate{
		onDamage: onDamage, limit: limit, stop: stop, wake: make(chan struct{}, 1), due: make(map[string]struct{}),
		files: make(map[string]*verified),
	}
	g.wg.Add(1)
	go func() { defer g.wg.Done(); g.loop(ctx) }()
	return g
}

// Close stops the verifying. Nothing that was not verified is compacted after it.
func (g *Gate) Close() error {
	g.stop()
	g.wg.Wait()
	return nil
}

// Planner is the engine's CompactionPlannerCreator.
func (g *Gate) Planner(cfg tsdb.Config) any { return &planner{gate: g, cfg: cfg} }

func (g *Gate) loop(ctx context.Context) {
	for {
		path, ok := g.next()
		if !ok {
			select {
			case <-g.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		g.verify(ctx, path)
		if ctx.Err() != nil {
			return
		}
	}
}

// next is the smallest file to verify: those of levels that are compacted often do not wait for a large one.
func (g *Gate) next() (path string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var least int64
	for p := range g.due {
		info, err := os.Stat(p)
		if err != nil {
			delete(g.due, p)
			continue
		}
		if !ok || info.Size() < least {
			path, least, ok = p, info.Size(), true
		}
	}
	return path, ok
}

func (g *Gate) verify(ctx context.Context, path string) {
	info, err := os.Stat(path)
	var found []*tsmfile.Damage
	if err == nil {
		found, err = verifyFile(ctx, path, g.wait)
	}
	if ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	delete(g.due, path)
	for p, v := range g.files {
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) || v.sound && time.Since(v.at) > stillSound {
			delete(g.files, p)
		}
	}
	if err == nil {
		g.files[path] = &verified{size: info.Size(), modified: info.ModTime(), at: time.Now(), sound: len(found) == 0}
	}
	g.mu.Unlock()
	if id, ok := shardOf(path); ok && len(found) > 0 && g.onDamage != nil {
		g.onDamage(id, found)
	}
}

func (g *Gate) wait(ctx context.Context, n int) error {
	for n > 0 && g.limit.Limit() != rate.Inf {
		part := min(n, g.limit.Burst())
		if err := g.limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return ctx.Err()
}

// look tells whether all files of a group are known to be sound, or one to be damaged or gone. Those of which nothing
// is known are verified.
func (g *Gate) look(group tsm1.CompactionGroup) (sound, spoiled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sound = true
	for _, path := range group {
		info, err := os.Stat(path)
		if err != nil {
			return false, true
		}
		v := g.files[path]
		if v != nil && (v.size != info.Size() || !v.modified.Equal(info.ModTime())) {
			v = nil
		}
		switch {
		case v != nil && !v.sound:
			return false, true
		case v == nil || time.Since(v.at) > stillSound:
			sound = false
			g.due[path] = struct{}{}
		}
	}
	if !sound {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
	return sound, false
}

// planner is the engine's own, of which groups wait at the gate.
type planner struct {
	*tsm1.DefaultPlanner // from SetFileStore on, which is the first call
	files                *tsm1.FileStore
	gate                 *Gate
	cfg                  tsdb.Config

	mu   sync.Mutex
	held [5]plan // of levels 1 to 3, full, optimize
}

// plan is what the engine's planner says.
type plan struct {
	groups      []tsm1.CompactionGroup
	generations int64
}

func (p *planner) SetFileStore(files *tsm1.FileStore) {
	p.files = files
	p.DefaultPlanner = tsm1.NewDefaultPlanner(files, time.Duration(p.cfg.CompactFullWriteColdDuration))
	p.SetAggressiveCompactionPointsPerBlock(int(p.cfg.AggressivePointsPerBlock))
}

func (p *planner) Plan(g tsm1.TsmGenerations, lastWrite time.Time) ([]tsm1.CompactionGroup, int64) {
	out := p.pass(&p.held[3], func() (out plan) {
		out.groups, _ = p.DefaultPlanner.Plan(g, lastWrite)
		return out
	})
	return out.groups, int64(len(out.groups))
}

func (p *planner) PlanLevel(g tsm1.TsmGenerations, level int) ([]tsm1.CompactionGroup, int64) {
	out := p.pass(&p.held[min(max(level, 1), 3)-1], func() (out plan) {
		out.groups, _ = p.DefaultPlanner.PlanLevel(g, level)
		return out
	})
	return out.groups, int64(len(out.groups))
}

func (p *planner) PlanOptimize(g tsm1.TsmGenerations, lastWrite time.Time) ([]tsm1.CompactionGroup, int64, int64) {
	out := p.pass(&p.held[4], func() (out plan) {
		out.groups, _, out.generations = p.DefaultPlanner.PlanOptimize(g, lastWrite)
		return out
	})
	return out.groups, int64(len(out.groups)), out.generations
}

// pass returns what of the groups that wait may be compacted now. A new plan is made when none wait: the engine's
// planner would not make the same plan twice. None may be compacted while somebody holds that off: the engine may have
// turned compactions on again.
func (p *planner) pass(held *plan, make func() plan) plan {
	if compactions.Held(p.files) {
		return plan{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(held.groups) == 0 {
		*held = make()
	}
	out := plan{generations: held.generations}
	held.groups = slices.DeleteFunc(held.groups, func(g tsm1.CompactionGroup) bool {
		sound, spoiled := p.gate.look(g)
		if sound {
			out.groups = append(out.groups, g)
		}
		if spoiled {
			p.Release([]tsm1.CompactionGroup{g})
		}
		return sound || spoiled
	})
	return out
}
