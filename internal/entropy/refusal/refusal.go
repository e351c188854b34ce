// Package refusal knows which points the owners of a shard refuse, and why. A field has one type in all series of a
// measurement of a copy: when two owners took values of different types, neither takes those of the other. A copy may
// refuse a series-field for other reasons, too, for example a limit of tag values.
//
// A repair leaves out what it would send in vain. Copies that differ in nothing but what they refuse have the status
// conflict, and not diff.
package refusal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/models"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

const (
	maxFields  = 1 << 16 // fields of measurements whose types are remembered
	maxOthers  = 1 << 20 // series-fields of which an owner refuses points for another reason
	maxMessage = 5       // fields that a message lists
)

// field is a field of a measurement, which has one type in a copy.
type field struct{ measurement, name string }

func fieldOf(series []byte, name string) field { return field{string(models.ParseName(series)), name} }

// Known is what the owners of a shard are known to refuse. Copies are named by their place among the owners. It is not
// safe for concurrent use.
type Known struct {
	types  map[field][]digest.Type // by copy; 0 is not known
	others map[seriesField]string  // the reason

	// Complete makes a copy that does not have a field refuse all types but the one that most copies have, whichever
	// points come first. It is set when all types are known.
	Complete bool
}

type seriesField struct {
	copy int
	hash uint64
}

// NewKnown returns one that knows nothing.
func NewKnown() *Known {
	return &Known{types: make(map[field][]digest.Type), others: make(map[seriesField]string)}
}

// Learn takes in which types copies have in a series-field, by copy. It is false when that is too much to remember.
func (k *Known) Learn(series []byte, name string, types []digest.Type) bool {
	at := fieldOf(series, name)
	known := k.types[at]
	if known == nil {
		if len(k.types) >= maxFields {
			return false
		}
		known = make([]digest.Type, len(types))
		k.types[at] = known
	}
	for i, t := range types {
		if t != 0 {
			known[i] = t
		}
	}
	return true
}

// Add takes in what one of so many copies refused of a block.
func (k *Known) Add(copy, copies int, b patch.Block, what patch.Refused) {
	if what.Type != 0 {
		types := make([]digest.Type, copies)
		types[copy] = what.Type
		if k.Learn(b.Series, b.Field, types) {
			return
		}
	}
	if len(k.others) < maxOthers {
		k.others[seriesField{copy, reconcile.HashOf(0, b.Series, b.Field)}] = what.Reason
	}
}

// Size changes with what is known.
func (k *Known) Size() int { return len(k.types) + len(k.others) }

// Refused returns why a copy refuses points of a series-field in some type.
func (k *Known) Refused(copy int, series []byte, name string, typ digest.Type) (reason string, ok bool) {
	if types := k.types[fieldOf(series, name)]; types != nil {
		have, is := types[copy], "is"
		if have == 0 && k.Complete {
			have, is = mostHave(types), "is to be"
		}
		if have != 0 && have != typ {
			return fmt.Sprintf("the field %s %s there, and not %s", is, have, typ), true
		}
	}
	if len(k.others) == 0 {
		return "", false
	}
	reason, ok = k.others[seriesField{copy, reconcile.HashOf(0, series, name)}]
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

// Explain returns why copies cannot become equal in a series-field, by copy; a reason is empty for a copy that refuses
// nothing. ok is false when copies differ in something that they do not refuse, too. The difference is of one type, as
// ByType makes them.
func (k *Known) Explain(d reconcile.Difference) (reasons []string, ok bool) {
	typ := onlyType(d)
	reasons = make([]string, len(d.Types))
	any := false
	for i := range d.Types {
		if reason, refused := k.Refused(i, d.Series, d.Field, typ); refused {
			reasons[i], any = reason, true
		}
	}
	if !any {
		return nil, false
	}
	return reasons, equalBut(contentsOf(d), func(i int) bool { return reasons[i] != "" })
}

// conflicts describes the fields that have different types on two owners, in the order of their names.
func (k *Known) conflicts(addrs []string) []string {
	var out []string
	for at, types := range k.types {
		if !differ(types) {
			continue
		}
		var on []string
		for i, t := range types {
			if t != 0 && i < len(addrs) {
				on = append(on, t.String()+" on "+addrs[i])
			}
		}
		out = append(out, fmt.Sprintf("measurement %q field %q is %s", at.measurement, at.name, strings.Join(on, ", ")))
	}
	slices.Sort(out)
	return out
}

func differ(types []digest.Type) bool { return reconcile.Difference{Types: types}.TypesConflict() }

// TypeConflicts tells operators which fields have different types on two of the owners with these addresses. It is
// empty when none has.
func (k *Known) TypeConflicts(addrs []string) string {
	conflicts := k.conflicts(addrs)
	if len(conflicts) == 0 {
		return ""
	}
	listed := conflicts[:min(len(conflicts), maxMessage)]
	if more := len(conflicts) - maxMessage; more > 0 {
		listed = append(slices.Clone(listed), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(listed, "; ") + ": choose a type with influxd-ctl entropy resolve"
}

// Message tells operators what owners refuse. It is empty when listed is.
func (k *Known) Message(addrs []string, listed []entropy.Refusal) string {
	if len(listed) == 0 {
		return ""
	}
	var all []string
	if text := k.TypeConflicts(addrs); text != "" {
		all = append(all, text)
	}
	type cause struct{ node, reason string }
	seen := make(map[cause]bool)
	for _, r := range listed {
		if at := (cause{r.Node, r.Reason}); !seen[at] && len(seen) < maxMessage &&
			!differ(k.types[fieldOf([]byte(r.Series), r.Field)]) {
			seen[at] = true
			all = append(all, fmt.Sprintf("%s refuses points of %q field %q: %s", r.Node, r.Series, r.Field, r.Reason))
		}
	}
	return strings.Join(all, "; ")
}
