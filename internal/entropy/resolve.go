package entropy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/retype"
)

// Retyper is a Replica in which a field can get another type.
type Retyper interface {
	// FieldType returns the type that a field has in a copy; 0 when it does not have the field. known tells whether
	// it has the measurement.
	FieldType(ctx context.Context, id uint64, measurement, field string) (typ digest.Type, known bool, err error)
	// Retype sets the values of other types aside, durably, removes them, and gives the field its type. It may be
	// repeated.
	Retype(ctx context.Context, id uint64, f retype.Field) (retype.Kept, error)
}

// Resolved is what one owner set aside.
type Resolved struct {
	Node        string // TCP address
	retype.Kept        // Path is on that node
}

// UnresolvableError says that the order cannot be carried out, however often it is given.
type UnresolvableError struct{ Reason string }

func (e UnresolvableError) Error() string { return e.Reason }

var _ Retyper = (*Local)(nil)

// FieldType returns the type of a field in this node's copy.
func (l *Local) FieldType(_ context.Context, id uint64, measurement, field string) (digest.Type, bool, error) {
	sh := l.store.Shard(id)
	if sh == nil {
		return 0, false, l.lacking(id)
	}
	return retype.TypeOf(sh, measurement, field)
}

// lacking is an error when the engine could not open a shard, and nil when this node does not have it.
func (l *Local) lacking(id uint64) error {
	if message, ok := l.unopened()[id]; ok {
		return fmt.Errorf("shard %d: %s", id, message)
	}
	return nil
}

// Retype gives a field of this node's copy its type.
func (l *Local) Retype(ctx context.Context, id uint64, f retype.Field) (retype.Kept, error) {
	sh := l.store.Shard(id)
	if sh == nil {
		return retype.Kept{}, l.lacking(id)
	}
	c := retype.Copy{Shard: sh, Dir: filepath.Join(l.dir, "aside"), Hold: func(context.Context) (func(), error) {
		deletes, writes := func() {}, func() {}
		if l.Deletes != nil {
			var ok bool
			if deletes, ok = l.Deletes.HoldDeletes(id, l.Deletes.DeletesSeen(id)); !ok {
				return nil, ErrOvertaken
			}
		}
		if l.HoldWrites != nil {
			writes = l.HoldWrites(id)
		}
		return func() { writes(); deletes() }, nil
	}}
	kept, err := c.Run(ctx, f)
	if l.OnRetype != nil && kept.Path != "" {
		l.OnRetype(id, kept)
	}
	return kept, l.met(id, err)
}

var (
	errResolving = errors.New("a type conflict of the shard is being resolved: the repair goes on after it")
	errResolved  = errors.New("a type conflict of the shard is being resolved already: see the log of its first owner")
)

// takePlace waits until no repair of a shard runs, and lets none begin until release. What runs stops, and stays in
// the queue.
func (s *Service) takePlace(ctx context.Context, id uint64, j *job) (release func(), err error) {
	for {
		s.mu.Lock()
		old := s.running[id]
		if old == nil {
			s.running[id] = j
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.running, id)
				s.free()
				s.mu.Unlock()
				notify(s.wake)
			}, nil
		}
		freed := s.freed
		s.mu.Unlock()
		if old.resolves {
			return nil, fmt.Errorf("shard %d: %w", id, errResolved)
		}
		old.cancel(errResolving)
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Resolve ends a conflict of types in a shard, of which this node must be the first owner: on each owner the values
// of other types are set aside and removed, and a repair brings each the others' values. It may be repeated; what an
// owner did stays.
func (s *Service) Resolve(ctx context.Context, id uint64, f retype.Field) ([]Resolved, error) {
	if !s.config().Enabled {
		return nil, ErrDisabled
	}
	st := s.deps.Meta.State()
	sh, ok := s.live()[id]
	if !ok {
		return nil, fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	if self := s.deps.Meta.NodeID(); len(sh.Owners) == 0 || sh.Owners[0] != self {
		return nil, fmt.Errorf("a type conflict of shard %d is resolved by its first owner, which node %d is not", id, self)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := s.takePlace(ctx, id, &job{cancel: cancel, started: s.deps.Now(), out: &outcome{}, resolves: true})
	if err != nil {
		return nil, err
	}
	defer release()
	owners, err := s.retypers(ctx, st, sh)
	if err != nil {
		return nil, err
	}
	if err := resolvable(ctx, sh, owners, f); err != nil {
		return nil, err
	}
	var out []Resolved
	for _, o := range owners {
		kept, err := o.Retype(ctx, id, f)
		if err != nil {
			return nil, fmt.Errorf("give field %q of %q in shard %d on %s the type %s: %w: resolve it again", f.Name, f.Measurement, id, o.addr, f.Type, err)
		}
		s.log.Info("A field has its type on an owner", zap.Uint64("db_shard_id", id), zap.String("measurement", f.Measurement), zap.String("field", f.Name),
			zap.String("type", f.Type.String()), zap.String("node", o.addr), zap.Int("points_set_aside", kept.Points), zap.String("kept", kept.Path))
		out = append(out, Resolved{o.addr, kept})
	}
	s.forget(id) // what the last check and repair found is no more
	s.Suspect(id)
	if len(sh.Owners) < 2 {
		return out, nil
	}
	if err := errors.Join(s.queue.put(id, s.deps.Now()), s.queue.hurry(id, s.deps.Now())); err != nil {
		return out, err
	}
	return out, nil // release wakes the dispatcher
}

// retyper is an owner that takes part.
type retyper struct {
	Retyper
	addr string
}

// retypers returns all owners, which have to be there: one that stays as it is would bring the conflict back.
func (s *Service) retypers(ctx context.Context, st *cluster.State, sh cluster.Shard) ([]retyper, error) {
	states, failed := s.states(ctx, st, []cluster.Shard{sh})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var out []retyper
	for _, o := range sh.Owners {
		at := addr(st, o)
		if err := failed[o]; err != nil {
			return nil, fmt.Errorf("owner %s of shard %d is away, and all owners have to take part: start it and resolve the conflict then: %w", at, sh.ID, err)
		}
		if damage := states[o][sh.ID].Corrupt; damage != "" {
			return nil, fmt.Errorf("the copy of shard %d on %s is damaged: resolve the conflict when it is healed: %s", sh.ID, at, damage)
		}
		rep, err := s.replica(st, o)
		if err != nil {
			return nil, err
		}
		r, ok := rep.(Retyper)
		if !ok {
			return nil, fmt.Errorf("types of the copy of shard %d on %s cannot be changed", sh.ID, at)
		}
		out = append(out, retyper{r, at})
	}
	return out, nil
}

// resolvable tells whether an owner has the field in the type that all are to have. Otherwise all values would be set
// aside.
func resolvable(ctx context.Context, sh cluster.Shard, owners []retyper, f retype.Field) error {
	known := false
	var have []string
	for _, o := range owners {
		typ, k, err := o.FieldType(ctx, sh.ID, f.Measurement, f.Name)
		if err != nil {
			return fmt.Errorf("ask %s for the type of field %q: %w", o.addr, f.Name, err)
		}
		if typ == f.Type {
			return nil
		}
		if known = known || k; typ != 0 {
			have = append(have, typ.String()+" on "+o.addr)
		}
	}
	switch {
	case !known:
		return UnresolvableError{fmt.Sprintf("shard %d has no measurement %q: see influxd-ctl entropy show", sh.ID, f.Measurement)}
	case len(have) == 0:
		return UnresolvableError{fmt.Sprintf("measurement %q has no field %q in shard %d: see influxd-ctl entropy show", f.Measurement, f.Name, sh.ID)}
	}
	return UnresolvableError{fmt.Sprintf("no owner of shard %d has field %q of %q as %s: it is %s", sh.ID, f.Name, f.Measurement, f.Type, strings.Join(have, ", "))}
}

// Resolve ends a conflict of types in a shard, by its first owner.
func (v *View) Resolve(ctx context.Context, id uint64, f retype.Field) ([]Resolved, error) {
	if err := v.enabled(ctx); err != nil {
		return nil, err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	out, err := v.control(node).Resolve(ctx, id, f)
	if errors.As(err, &UnresolvableError{}) {
		return nil, err
	}
	return out, v.remote(node, id, err)
}
