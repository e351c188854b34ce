package refusal

import (
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
)

// maxShapes is how many differences of one field are kept apart.
const maxShapes = 1 << 10

// Look finds fields that have different types on two owners, also in different series, in a look at all differences.
type Look struct {
	*Known
	shapes map[field]map[shape]struct{}
	full   bool
}

// shape is what is kept of the differences of a field: their type, and which copies hold the same.
type shape struct {
	typ      digest.Type
	contents string
}

// NewLook returns a Look that has seen nothing.
func NewLook() *Look { return &Look{Known: NewKnown(), shapes: make(map[field]map[shape]struct{})} }

// Add adds a difference.
func (l *Look) Add(d reconcile.Difference) {
	l.Learn(d.Series, d.Field, d.Types)
	for _, of := range ByType(d) {
		at := fieldOf(d.Series, d.Field)
		shapes := l.shapes[at]
		if shapes == nil && len(l.shapes) < maxFields {
			shapes = make(map[shape]struct{})
			l.shapes[at] = shapes
		}
		if l.full = l.full || shapes == nil || len(shapes) >= maxShapes; !l.full {
			shapes[shape{onlyType(of), contentsOf(of)}] = struct{}{}
		}
	}
}

// Repairable reports whether copies differ in something that they do not refuse.
func (l *Look) Repairable() bool {
	for at, shapes := range l.shapes {
		types := l.types[at]
		for s := range shapes {
			ofOtherType := func(i int) bool { return types[i] != 0 && types[i] != s.typ }
			if !equalBut(s.contents, ofOtherType) {
				return true
			}
		}
	}
	return l.full
}
