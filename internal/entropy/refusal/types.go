package refusal

import (
	"cmp"
	"math/bits"
	"slices"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// ByType returns a difference for each type in which copies have a field, the type that most have first. In each, the
// copies that have the field in another type hold nothing; they refuse what it is about.
func ByType(d reconcile.Difference) []reconcile.Difference {
	if !d.TypesConflict() {
		return []reconcile.Difference{d}
	}
	votes := make(map[digest.Type]int)
	var types []digest.Type
	for _, t := range d.Types {
		if t != 0 && votes[t] == 0 {
			types = append(types, t)
		}
		votes[t]++
	}
	slices.SortFunc(types, func(a, b digest.Type) int {
		return cmp.Or(cmp.Compare(votes[b], votes[a]), cmp.Compare(a, b))
	})
	var out []reconcile.Difference
	for _, typ := range types {
		if of := ofType(d, typ); of.Windows != 0 {
			out = append(out, of)
		}
	}
	return out
}

// ofType is the part of a difference that is about the copies with a type.
func ofType(d reconcile.Difference, typ digest.Type) reconcile.Difference {
	n := len(d.Types)
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
	return of
}

// onlyType is the type of a difference that ByType made.
func onlyType(d reconcile.Difference) digest.Type { return slices.Max(d.Types) }

// contentsOf tells which copies hold the same in all differing windows: those have the same number.
func contentsOf(d reconcile.Difference) string {
	n := len(d.Types)
	contents := make([]byte, n)
	for i := range n {
		contents[i] = byte(i)
		for j := range i {
			same := true
			for from := 0; from < len(d.Groups) && same; from += n {
				same = d.Groups[from+i] == d.Groups[from+j]
			}
			if same {
				contents[i] = contents[j]
				break
			}
		}
	}
	return string(contents)
}

// equalBut reports whether all copies hold the same, apart from some.
func equalBut(contents string, apart func(copy int) bool) bool {
	first := -1
	for i := range contents {
		switch {
		case apart(i):
		case first < 0:
			first = i
		case contents[i] != contents[first]:
			return false
		}
	}
	return true
}
