package entropy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
)

// met notes damage that a read met, and returns its error.
func (l *Local) met(id uint64, err error) error {
	var d *tsmfile.Damage
	if !errors.As(err, &d) {
		return err
	}
	return errors.Join(err, l.Found(id, d))
}

// Found notes, durably, what is damaged in a copy.
func (l *Local) Found(id uint64, found ...*tsmfile.Damage) error {
	if len(found) == 0 {
		return nil
	}
	for _, d := range found {
		if l.OnDamage != nil {
			l.OnDamage(id, d)
		}
	}
	message := found[0].Error()
	if n := len(found) - 1; n > 0 {
		message += fmt.Sprintf("; and %d more", n)
	}
	return l.damaged.set(id, damage{Message: message})
}

// errNoCopy is why a copy is not verified.
var errNoCopy = errors.New("the node has no copy of the shard")

// Scrub reads all files of a copy from disk, and notes what is damaged; wait is called before each read. What queries
// do not see of sound files it makes visible. It fails with errNoCopy when the engine does not have the shard. One
// that it could not open is damaged, whatever its files are.
func (l *Local) Scrub(ctx context.Context, id uint64, wait func(context.Context, int) error) ([]*tsmfile.Damage, error) {
	sh := l.store.Shard(id)
	if sh == nil {
		return nil, errNoCopy
	}
	found, err := scrub.Verify(ctx, sh.Path(), wait)
	if err == nil && len(found) == 0 {
		err = l.checkFields(pace.With(ctx, l.Pace), sh)
	}
	return found, errors.Join(err, l.Found(id, found...))
}

// unopened returns the engine's error for each shard that it could not open: their files are there, and nobody reads or writes them.
func (l *Local) unopened() map[uint64]string {
	out := make(map[uint64]string)
	for id, err := range l.store.GetBadShardList() {
		if l.store.Shard(id) != nil { // opened since
			continue
		}
		var cause tsdb.ShardError
		if errors.As(err, &cause) {
			err = cause.Err // without what the engine says of its attempts
		}
		out[id] = "the engine could not open the shard: " + err.Error()
	}
	return out
}

// Damaged returns what is damaged, by shard.
func (l *Local) Damaged() (map[uint64]string, error) {
	out, err := l.damaged.all()
	if err != nil {
		return nil, err
	}
	maps.Copy(out, l.unopened())
	return out, nil
}

// Aside is the folder in which what is replaced in damaged copies is kept.
func (l *Local) Aside() string { return filepath.Join(l.dir, "aside") }

// SetAside replaces the damaged files of a copy by ones with what is good in them; the damaged
// ones are kept in the folder aside.
func (l *Local) SetAside(ctx context.Context, id uint64) error {
	d, ok, err := l.damaged.of(id)
	if err != nil || !ok || d.Aside {
		return err
	}
	if sh := l.store.Shard(id); sh != nil {
		var seen uint64
		if l.Deletes != nil {
			seen = l.Deletes.DeletesSeen(id)
		}
		hold := func() (func(), error) {
			if l.Deletes == nil {
				return func() {}, nil
			}
			release, ok := l.Deletes.HoldDeletes(id, seen)
			if !ok {
				return nil, ErrOvertaken
			}
			return release, nil
		}
		aside := scrub.Aside{Shard: sh, Dir: l.Aside(), Wait: l.throttle, Hold: hold}
		if l.HoldWrites != nil {
			aside.HoldWrites = func() func() { return l.HoldWrites(id) }
		}
		kept, _, err := aside.Run(ctx)
		if err != nil {
			return fmt.Errorf("shard %d: %w", id, err)
		}
		if l.OnAside != nil && kept != "" {
			l.OnAside(id, kept)
		}
		if err := l.checkFields(ctx, sh); err != nil {
			return err
		}
	} else if message, ok := l.unopened()[id]; ok {
		return fmt.Errorf("shard %d: %s", id, message)
	}
	d.Aside = true
	return l.damaged.set(id, d)
}

// Healed forgets that a copy was damaged, when its damaged files were set aside.
func (l *Local) Healed(_ context.Context, id uint64) error {
	if d, ok, err := l.damaged.of(id); err != nil || !ok || !d.Aside {
		return err
	}
	return l.damaged.remove(id)
}

// Sound forgets that a copy was damaged: all its files are verified.
func (l *Local) Sound(id uint64) error { return l.damaged.remove(id) }

// scrubber is a Replica of this node whose files can be verified.
type scrubber interface {
	Scrub(ctx context.Context, id uint64, wait func(context.Context, int) error) ([]*tsmfile.Damage, error)
	Damaged() (map[uint64]string, error)
	Sound(id uint64) error
}

const (
	scrubPause = time.Minute      // how long the loop waits at most before it looks which shards there are
	scrubRetry = 10 * time.Minute // after which a copy that could not be verified is tried again
)

// scrubLoop verifies each copy of this node once in a scrub-interval, counted from when it was seen first. When that
// was outlives a restart: a node that restarts daily gets through all its shards like another.
func (s *Service) scrubLoop(ctx context.Context) {
	local, ok := s.deps.Local.(scrubber)
	if !ok {
		return
	}
	retry := make(map[uint64]time.Time)
	for {
		wait, err := s.scrubDue(ctx, local, retry)
		if err != nil && ctx.Err() == nil {
			s.stats.errors.Add(1)
			s.log.Warn("Cannot tell which shards are to be verified", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.scrubbing:
		case <-s.deps.After(wait):
		}
	}
}

// scrubDue verifies what is due, the longest due first, and returns when to look again. A copy that cannot be
// verified waits until its time in retry, and the others do not wait for it.
func (s *Service) scrubDue(ctx context.Context, local scrubber, retry map[uint64]time.Time) (time.Duration, error) {
	cfg := s.config()
	interval := time.Duration(cfg.ScrubInterval)
	self := s.deps.Meta.NodeID()
	if !cfg.Enabled || self == 0 {
		return scrubPause, nil
	}
	shards := s.live()
	last, err := s.queue.scrubbed(s.deps.Now(), func(id uint64) bool { return shards[id].ID != 0 && owns(shards[id], self) }, shards)
	if err != nil {
		return scrubPause, err
	}
	maps.DeleteFunc(retry, func(id uint64, _ time.Time) bool { _, ok := last[id]; return !ok })
	ids := slices.SortedFunc(maps.Keys(last), func(a, b uint64) int { return last[a].Compare(last[b]) })
	next := scrubPause
	for _, id := range ids {
		due := last[id].Add(interval)
		if last[id].Equal(asked) {
			due = asked
		} else if interval == 0 {
			continue
		}
		if at := retry[id]; at.After(due) {
			due = at
		}
		if wait := due.Sub(s.deps.Now()); wait > 0 {
			next = min(next, wait)
			continue
		}
		err := s.scrub(ctx, local, shards[id])
		switch {
		case ctx.Err() != nil:
			return scrubPause, nil
		case err != nil:
			retry[id] = s.deps.Now().Add(scrubRetry)
			if !errors.Is(err, errNoCopy) { // that one has a status
				s.fail("Cannot verify the files of a shard", id, err)
			}
		default:
			delete(retry, id)
		}
	}
	return max(next, time.Second), nil
}

// scrub verifies one copy.
func (s *Service) scrub(ctx context.Context, local scrubber, sh cluster.Shard) error {
	start := s.deps.Now()
	found, err := local.Scrub(ctx, sh.ID, s.Throttle)
	if err != nil {
		return err
	}
	s.log.Info("Verified a shard", zap.Uint64("db_shard_id", sh.ID), zap.Int("damaged", len(found)), zap.Duration("duration", s.deps.Now().Sub(start)))
	if len(found) > 0 {
		s.Suspect(sh.ID)
	} else if len(sh.Owners) == 1 {
		// Nobody heals it: an operator put the damage right, or gave the damaged files up.
		if err := local.Sound(sh.ID); err != nil {
			return err
		}
	}
	return s.queue.setScrubbed(sh.ID, s.deps.Now())
}

// asked as the time at which a copy was verified makes it due at once, also when none is due by itself.
var asked = time.Unix(0, 0)

// verifyAgain verifies a damaged copy of this node, or all for 0, soon: it may have been put right.
func (s *Service) verifyAgain(id uint64) error {
	local, ok := s.deps.Local.(scrubber)
	if !ok {
		return nil
	}
	damaged, err := local.Damaged()
	if err != nil {
		return err
	}
	for d := range damaged {
		if id == 0 || id == d {
			if err := s.queue.setScrubbed(d, asked); err != nil {
				return err
			}
		}
	}
	notify(s.scrubbing)
	return nil
}

// hopeless is why a repair of a shard cannot help: its only copy is damaged.
func (s *Service) hopeless(sh cluster.Shard) error {
	local, ok := s.deps.Local.(scrubber)
	if !ok || len(sh.Owners) > 1 {
		return nil
	}
	damaged, err := local.Damaged()
	if err != nil {
		return err
	}
	if message, ok := damaged[sh.ID]; ok {
		return fmt.Errorf("the only copy of shard %d is damaged, and no other owner has what is lost: %s: restore it from a backup, or remove the file and check the shard", sh.ID, message)
	}
	return nil
}

func owns(sh cluster.Shard, node uint64) bool {
	for _, o := range sh.Owners {
		if o == node {
			return true
		}
	}
	return false
}

// scrubBucket has when a shard's files were verified, or seen first: nanoseconds in
// 8 bytes, big endian, by shard ID in the same form.
var scrubBucket = []byte("scrubbed.v1")

// scrubbed returns when each shard that mine is true for was verified last, or seen first, which may be now. It
// forgets the others. It is asked every minute, and writes only what changed.
func (q *queue) scrubbed(now time.Time, mine func(uint64) bool, shards map[uint64]cluster.Shard) (map[uint64]time.Time, error) {
	out := make(map[uint64]time.Time)
	var gone [][]byte
	err := q.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(scrubBucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != 8 || len(v) != 8 || !mine(binary.BigEndian.Uint64(k)) {
				gone = append(gone, append([]byte(nil), k...))
				return nil
			}
			// A time to come is of a clock that was wrong.
			at := time.Unix(0, int64(binary.BigEndian.Uint64(v)))
			if at.After(now) {
				at = time.Time{}
			}
			out[binary.BigEndian.Uint64(k)] = at
			return nil
		})
	})
	var fresh []uint64
	for id := range shards {
		if _, ok := out[id]; !ok && mine(id) {
			fresh = append(fresh, id)
			out[id] = now
		}
	}
	if err == nil && len(gone)+len(fresh) > 0 {
		err = q.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(scrubBucket)
			if err != nil {
				return err
			}
			for _, k := range gone {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			for _, id := range fresh {
				if err := putTime(b, id, now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read when shards were verified: %w", err)
	}
	return out, nil
}

func putTime(b *bbolt.Bucket, id uint64, at time.Time) error {
	return b.Put(binary.BigEndian.AppendUint64(nil, id), binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
}

func (q *queue) setScrubbed(id uint64, at time.Time) error {
	err := q.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(scrubBucket)
		if err != nil {
			return err
		}
		return putTime(b, id, at)
	})
	if err != nil {
		return fmt.Errorf("store when shard %d was verified: %w", id, err)
	}
	return nil
}

// damagedHere adds to out what this node knows to be damaged of its own copies: other statuses of the shard do not count then.
func (s *Service) damagedHere(live map[uint64]cluster.Shard, out []ShardStatus) ([]ShardStatus, error) {
	local, ok := s.deps.Local.(scrubber)
	if !ok {
		return out, nil
	}
	damaged, err := local.Damaged()
	if err != nil {
		return nil, err
	}
	self := s.deps.Meta.NodeID()
	kept := out[:0]
	for _, r := range out {
		if _, ok := damaged[r.ID]; !ok {
			kept = append(kept, r)
		}
	}
	for id, message := range damaged {
		if sh, ok := live[id]; ok && owns(sh, self) {
			if len(sh.Owners) == 1 {
				message += "; no other owner has the shard"
			}
			kept = append(kept, ShardStatus{ID: id, Status: Corrupt, Message: addr(s.deps.Meta.State(), self) + ": " + message})
		}
	}
	return kept, nil
}

// heal queues the repair of a shard with damaged copies, when another copy is sound.
func (s *Service) heal(sh cluster.Shard, copies []copyOf) (reason string, err error) {
	if len(healthy(copies)) == 0 {
		return "no owner that is reachable has an undamaged copy", nil
	}
	s.forget(sh.ID) // the damaged owner says what is wrong
	if sh.Owners[0] != s.deps.Meta.NodeID() {
		return "a copy is damaged, and the first owner is away", nil
	}
	if known, ok := s.knownRefusals(sh, copies); ok { // its repair ended so, and would again
		return "a copy is damaged, and lacks points that it refuses: " + known.message, nil
	}
	return "a copy is damaged: its repair is queued", s.enqueue(sh.ID)
}

// healthy are the copies that exist and are not damaged.
func healthy(copies []copyOf) (out []copyOf) {
	for _, c := range copies {
		if c.state.Exists && c.state.Corrupt == "" {
			out = append(out, c)
		}
	}
	return out
}

// setAside sets the damaged files of copies aside, and tells whether there were any.
func (s *Service) setAside(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf) (bool, error) {
	any := false
	for _, c := range copies {
		if c.state.Corrupt == "" {
			continue
		}
		if len(healthy(copies)) == 0 {
			return false, fmt.Errorf("no owner that is reachable has an undamaged copy of shard %d: %s: %s", sh.ID, addr(st, c.owner), c.state.Corrupt)
		}
		if err := c.replica.SetAside(ctx, sh.ID); err != nil {
			return false, fmt.Errorf("set the damaged files of shard %d on %s aside: %w", sh.ID, addr(st, c.owner), err)
		}
		any = true
	}
	return any, nil
}

// healed tells the owners of copies that were damaged that they are equal to the others now.
func (s *Service) healed(ctx context.Context, st *cluster.State, sh cluster.Shard, copies []copyOf) error {
	for _, c := range copies {
		if c.state.Corrupt == "" {
			continue
		}
		if err := c.replica.Healed(ctx, sh.ID); err != nil {
			return fmt.Errorf("tell %s that its copy of shard %d is healed: %w", addr(st, c.owner), sh.ID, err)
		}
		s.log.Info("A damaged copy is healed", zap.Uint64("db_shard_id", sh.ID), zap.String("node", addr(st, c.owner)), zap.String("message", c.state.Corrupt))
	}
	return nil
}
