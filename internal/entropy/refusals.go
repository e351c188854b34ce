package entropy

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/influxdata/influxdb/models"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

const (
	maxTypedFields = 1 << 16 // fields of measurements whose types are remembered
	maxRefused     = 1 << 20 // series-fields that are, of which an owner refuses points for another reason
	maxShapes      = 1 << 10 // differences of one field that are kept apart
	maxRefusals    = 100     // that a record lists
	maxMessage     = 5       // that a message lists

	// refusedFor is how long checks believe that an owner refuses what it refused in a repair: its settings may be
	// others now.
	refusedFor = time.Hour
)

// Refusal is a series-field of which an owner refuses the points that others have.
type Refusal struct {
	Node   string // TCP address of the owner
	Series string
	Field  string
	Reason string
}

// typedField is a field of a measurement, which has one type in a copy.
type typedField struct{ measurement, field string }

// refusals is what the owners of a shard are known to refuse. Two causes are told apart: a field has another
// type in the whole copy, or the copy refuses this series-field.
//
// A repair leaves out what it would send in vain. What differs for no other reason does not differ for a check.
type refusals struct {
	types  map[typedField][]digest.Type // by copy; 0 is not known
	others map[refusedField]string      // the reason
	// chosen makes a copy that does not have a field take it in the type that most copies have, whichever points come
	// first. It is set when all types are known.
	chosen bool
}

type refusedField struct {
	copy int
	hash uint64 // of the series-field
}

func newRefusals() *refusals {
	return &refusals{types: make(map[typedField][]digest.Type), others: make(map[refusedField]string)}
}

func fieldOf(series []byte, field string) typedField {
	return typedField{string(models.ParseName(series)), field}
}

// learn takes in which type copies have a field. It is false when that is too much to remember.
func (r *refusals) learn(series []byte, field string, types []digest.Type) bool {
	at := fieldOf(series, field)
	known := r.types[at]
	if known == nil {
		if len(r.types) >= maxTypedFields {
			return false
		}
		known = make([]digest.Type, len(types))
		r.types[at] = known
	}
	for i, t := range types {
		if t != 0 {
			known[i] = t
		}
	}
	return true
}

// add takes in what one of so many copies refused.
func (r *refusals) add(copy, copies int, b patch.Block, what patch.Refused) {
	if what.Type != 0 {
		types := make([]digest.Type, copies)
		types[copy] = what.Type
		if r.learn(b.Series, b.Field, types) {
			return
		}
	}
	if len(r.others) < maxRefused {
		r.others[refusedField{copy, reconcile.HashOf(0, b.Series, b.Field)}] = what.Reason
	}
}

// size changes with what is known.
func (r *refusals) size() int { return len(r.types) + len(r.others) }

// refused tells why a copy refuses points of a type.
func (r *refusals) refused(copy int, series []byte, field string, typ digest.Type) (reason string, ok bool) {
	if types := r.types[fieldOf(series, field)]; types != nil {
		have, is := types[copy], "is"
		if have == 0 && r.chosen {
			have, is = mostHave(types), "is to be"
		}
		if have != 0 && have != typ {
			return fmt.Sprintf("the field %s %s there, and not %s", is, have, typ), true
		}
	}
	if len(r.others) == 0 {
		return "", false
	}
	reason, ok = r.others[refusedField{copy, reconcile.HashOf(0, series, field)}]
	return reason, ok
}

// mostHave is the type that most copies have, of two the lesser.
func mostHave(types []digest.Type) (most digest.Type) {
	var votes [digest.Unsigned + 1]int
	for _, t := range types {
		if t > 0 && t <= digest.Unsigned {
			votes[t]++
		}
	}
	for t := digest.Float; t <= digest.Unsigned; t++ {
		if votes[t] > votes[most] {
			most = t
		}
	}
	return most
}

// explain returns what keeps copies from being equal in a series-field, by copy: the reasons. ok is false
// when there is something that they do not refuse.
func (r *refusals) explain(d reconcile.Difference) (reasons []string, ok bool) {
	typ := onlyType(d)
	reasons = make([]string, len(d.Types))
	any := false
	for i := range d.Types {
		if reason, refused := r.refused(i, d.Series, d.Field, typ); refused {
			reasons[i], any = reason, true
		}
	}
	if !any {
		return nil, false
	}
	return reasons, equalBut(shapeOf(d), func(i int) bool { return reasons[i] != "" })
}

// onlyType is the type of a difference that byType made.
func onlyType(d reconcile.Difference) digest.Type { return slices.Max(d.Types) }

// shapeOf tells which copies hold the same in all differing windows: those have the same number.
func shapeOf(d reconcile.Difference) string {
	n := len(d.Types)
	shape := make([]byte, n)
	for i := range n {
		shape[i] = byte(i)
		for j := range i {
			same := true
			for from := 0; from < len(d.Groups) && same; from += n {
				same = d.Groups[from+i] == d.Groups[from+j]
			}
			if same {
				shape[i] = shape[j]
				break
			}
		}
	}
	return string(shape)
}

// equalBut tells whether all copies hold the same, apart from some.
func equalBut(shape string, apart func(copy int) bool) bool {
	first := -1
	for i := range shape {
		switch {
		case apart(i):
		case first < 0:
			first = i
		case shape[i] != shape[first]:
			return false
		}
	}
	return true
}

// explained tells whether the copies differ for what they refuse alone, and counts it.
func (o *outcome) explained(st *cluster.State, copies []copyOf, d reconcile.Difference) bool {
	reasons, ok := o.refusals.explain(d)
	if !ok {
		return false
	}
	o.change(func() {
		o.refused++
		for i, reason := range reasons {
			if reason != "" && len(o.listed) < maxRefusals {
				o.listed = append(o.listed, Refusal{addr(st, copies[i].owner), string(d.Series), d.Field, reason})
			}
		}
	})
	return true
}

// byType returns a difference for each type in which copies have a field, the type that most have first. In each, the
// copies that have the field in another type hold nothing; they refuse what it is about.
func byType(d reconcile.Difference) []reconcile.Difference {
	if !d.Conflict() {
		return []reconcile.Difference{d}
	}
	n := len(d.Types)
	votes := make(map[digest.Type]int)
	var types []digest.Type
	for _, t := range d.Types {
		if t != 0 && votes[t] == 0 {
			types = append(types, t)
		}
		votes[t]++
	}
	slices.SortFunc(types, func(a, b digest.Type) int { return cmp.Or(cmp.Compare(votes[b], votes[a]), cmp.Compare(a, b)) })
	var out []reconcile.Difference
	for _, typ := range types {
		of := reconcile.Difference{Series: d.Series, Field: d.Field, Types: make([]digest.Type, n)}
		for i, t := range d.Types {
			if t == typ {
				of.Types[i] = t
			}
		}
		k := 0
		for set := d.Windows; set != 0; set &= set - 1 {
			held := slices.Clone(d.Groups[k*n : k*n+n])
			any := false
			for i, t := range d.Types {
				if t != typ {
					held[i] = 0
				}
				any = any || held[i] != 0
			}
			if any {
				of.Windows |= 1 << bits.TrailingZeros64(set)
				of.Marks, of.Groups = append(of.Marks, d.Marks[k]), append(of.Groups, held...)
			}
			k++
		}
		if of.Windows != 0 {
			out = append(out, of)
		}
	}
	return out
}

// conflicts describes the fields that have different types on two owners, in the order of their names.
func (r *refusals) conflicts(st *cluster.State, copies []copyOf) []string {
	var out []string
	for at, types := range r.types {
		if !differentTypes(types) {
			continue
		}
		var on []string
		for i, t := range types {
			if t != 0 && i < len(copies) {
				on = append(on, t.String()+" on "+addr(st, copies[i].owner))
			}
		}
		out = append(out, fmt.Sprintf("measurement %q field %q is %s", at.measurement, at.field, strings.Join(on, ", ")))
	}
	slices.Sort(out)
	return out
}

func differentTypes(types []digest.Type) bool { return reconcile.Difference{Types: types}.Conflict() }

// conflictMessage is what operators read of fields that have different types.
func conflictMessage(conflicts []string) string {
	if len(conflicts) == 0 {
		return ""
	}
	listed := conflicts[:min(len(conflicts), maxMessage)]
	if more := len(conflicts) - maxMessage; more > 0 {
		listed = append(slices.Clone(listed), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(listed, "; ") + ": choose a type with influxd-ctl entropy resolve"
}

// message says what operators have to do, and nothing when nothing is refused.
func (r *refusals) message(st *cluster.State, copies []copyOf, listed []Refusal) string {
	if len(listed) == 0 {
		return ""
	}
	var all []string
	if text := conflictMessage(r.conflicts(st, copies)); text != "" {
		all = append(all, text)
	}
	seen := make(map[string]bool)
	for _, o := range listed {
		if differentTypes(r.types[fieldOf([]byte(o.Series), o.Field)]) {
			continue
		}
		if text := fmt.Sprintf("%s refuses points of %q field %q: %s", o.Node, o.Series, o.Field, o.Reason); !seen[o.Node+o.Reason] && len(seen) < maxMessage {
			seen[o.Node+o.Reason] = true
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

// repairBeside queues a shard that a check found in conflict, and of which owners can be repaired of something else.
// late tells that an owner has only what was written since it lost the shard.
func (s *Service) repairBeside(sh cluster.Shard, late bool) {
	cfg := s.config()
	if auto := cfg.AutoRepairDiff || late && cfg.AutoRepairMissing; !auto || sh.Owners[0] != s.deps.Meta.NodeID() {
		return
	}
	if err := s.enqueue(sh.ID); err != nil {
		s.fail("Cannot queue shard", sh.ID, err)
	}
}

// keptRefusals is what a repair left to the checks.
type keptRefusals struct {
	*refusals
	owners  []uint64
	lacks   []uint64 // as in outcome
	until   time.Time
	message string
}

// brought tells whether the repair brought all that the copies lack and do not refuse: they lost nothing since.
func (k keptRefusals) brought(copies []copyOf) bool { return slices.Equal(k.lacks, lacksOf(copies)) }

func lacksOf(copies []copyOf) []uint64 {
	out := make([]uint64, len(copies))
	for i, c := range copies {
		out[i] = c.state.Lack.Gen
	}
	return out
}

// keepRefusals remembers what owners refused in a repair, for the checks that follow.
func (s *Service) keepRefusals(id uint64, out *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if out.typeConflict == "" {
		delete(s.refused, id)
		return
	}
	s.refused[id] = keptRefusals{out.refusals, out.copies, out.lacks, s.deps.Now().Add(refusedFor), out.typeConflict}
}

// knownRefusals is what the copies are known to refuse.
func (s *Service) knownRefusals(sh cluster.Shard, copies []copyOf) (keptRefusals, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.refused[sh.ID]
	if ok && (!slices.Equal(k.owners, ownersOf(copies)) || s.deps.Now().After(k.until)) {
		delete(s.refused, sh.ID)
		return keptRefusals{}, false
	}
	return k, ok
}

func ownersOf(copies []copyOf) []uint64 {
	out := make([]uint64, len(copies))
	for i, c := range copies {
		out[i] = c.owner
	}
	return out
}

// typedLook finds fields that have different types on two owners, also in different series, in a look at all
// differences.
type typedLook struct {
	*refusals
	shapes map[typedField]map[shape]struct{}
	full   bool
}

// shape is what is kept of the differences of a field: their type, and which copies hold the same.
type shape struct {
	typ  digest.Type
	same string
}

func newTypedLook() *typedLook {
	return &typedLook{refusals: newRefusals(), shapes: make(map[typedField]map[shape]struct{})}
}

func (l *typedLook) add(d reconcile.Difference) {
	l.learn(d.Series, d.Field, d.Types)
	for _, of := range byType(d) {
		at := fieldOf(d.Series, d.Field)
		shapes := l.shapes[at]
		if shapes == nil && len(l.shapes) < maxTypedFields {
			shapes = make(map[shape]struct{})
			l.shapes[at] = shapes
		}
		if l.full = l.full || shapes == nil || len(shapes) >= maxShapes; !l.full {
			shapes[shape{onlyType(of), shapeOf(of)}] = struct{}{}
		}
	}
}

// repairable tells whether there is a difference that owners can be repaired of.
func (l *typedLook) repairable() bool {
	for at, shapes := range l.shapes {
		types := l.types[at]
		for s := range shapes {
			other := func(i int) bool { return types[i] != 0 && types[i] != s.typ }
			if !equalBut(s.same, other) {
				return true
			}
		}
	}
	return l.full
}
