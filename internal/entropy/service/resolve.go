package service

import (
	"context"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/retype"
)

// Resolve ends a conflict of types in a shard, of which this node must be the first owner: on each owner the values
// of other types are set aside and removed, and a repair brings each the others' values. It may be repeated; what an
// owner did stays.
func (s *Service) Resolve(ctx context.Context, id uint64, f retype.Field) ([]entropy.Resolved, error) {
	if !s.config().Enabled {
		return nil, entropy.ErrDisabled
	}
	sh, err := s.shard(id, "a type conflict of shard %d is resolved")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := s.dispatcher.takePlace(ctx, id, cancel)
	if err != nil {
		return nil, err
	}
	defer release()
	owners, err := s.allOwners(ctx, sh)
	if err != nil {
		return nil, err
	}
	if err := resolvable(ctx, id, owners, f); err != nil {
		return nil, err
	}
	var out []entropy.Resolved
	for _, o := range owners {
		kept, err := o.Replica.Retype(ctx, id, f)
		if err != nil {
			return nil, fmt.Errorf("give field %q of %q in shard %d on %s the type %s: %w: resolve it again",
				f.Name, f.Measurement, id, o.TCPAddr, f.Type, err)
		}
		s.report.Log.Info("A field has its type on an owner", zap.Uint64("db_shard_id", id),
			zap.String("measurement", f.Measurement), zap.String("field", f.Name), zap.String("type", f.Type.String()),
			zap.String("node", o.TCPAddr), zap.Int("points_set_aside", kept.Points), zap.String("kept", kept.Path))
		out = append(out, entropy.Resolved{Node: o.TCPAddr, Kept: kept})
	}
	s.checker.Forget(id) // what the last check and repair found is no more
	s.Suspect(id)
	if len(sh.Owners) < 2 {
		return out, nil
	}
	return out, s.dispatcher.QueueNow(id) // it runs when release has made room
}

// allOwners returns the copies of all owners, which have to be there: one that stays as it is would bring the conflict
// back.
func (s *Service) allOwners(ctx context.Context, sh cluster.Shard) ([]copies.Copy, error) {
	states, err := s.cluster.States(ctx, sh)
	if err != nil {
		return nil, err
	}
	for _, o := range sh.Owners {
		if err := states.Failed[o]; err != nil {
			return nil, fmt.Errorf("owner %s of shard %d is away, and all owners have to take part: "+
				"start it and resolve the conflict then: %w", s.cluster.Addr(o), sh.ID, err)
		}
	}
	set := states.Set(sh)
	for _, c := range set.Copies {
		if damage := c.State.Corrupt; damage != "" {
			return nil, fmt.Errorf("the copy of shard %d on %s is damaged: resolve the conflict when it is healed: %s",
				sh.ID, c.TCPAddr, damage)
		}
	}
	return set.Copies, set.AwayError()
}

// resolvable fails unless an owner has the field in the type that all are to have. Otherwise all values would be set
// aside.
func resolvable(ctx context.Context, id uint64, owners []copies.Copy, f retype.Field) error {
	known := false
	var have []string
	for _, o := range owners {
		typ, k, err := o.Replica.FieldType(ctx, id, f.Measurement, f.Name)
		if err != nil {
			return fmt.Errorf("ask %s for the type of field %q: %w", o.TCPAddr, f.Name, err)
		}
		if typ == f.Type {
			return nil
		}
		if known = known || k; typ != 0 {
			have = append(have, typ.String()+" on "+o.TCPAddr)
		}
	}
	switch {
	case !known:
		return entropy.UnresolvableError{
			Reason: fmt.Sprintf("shard %d has no measurement %q: see influxd-ctl entropy show", id, f.Measurement),
		}
	case len(have) == 0:
		return entropy.UnresolvableError{Reason: fmt.Sprintf("measurement %q has no field %q in shard %d: "+
			"see influxd-ctl entropy show", f.Measurement, f.Name, id)}
	}
	return entropy.UnresolvableError{Reason: fmt.Sprintf("no owner of shard %d has field %q of %q as %s: it is %s",
		id, f.Name, f.Measurement, f.Type, strings.Join(have, ", "))}
}
