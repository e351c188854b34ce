package patch

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// candidate is one of the values that owners hold for one time.
type candidate struct {
	value   tsm1.Value
	code    []byte // canonical
	votes   int    // of owners that are not doubtful
	others  int    // doubtful owners that hold it, without copies of others
	all     int    // owners that hold it
	written uint64 // the greatest version with which one of its owners was written, 0 for none
}

// better compares candidates: by votes, then by what speaks for one where votes are tied. All of it is the same on
// every node.
func better(a, b candidate) int {
	return cmp.Or(cmp.Compare(b.votes, a.votes), cmp.Compare(b.written, a.written), cmp.Compare(b.others, a.others),
		bytes.Compare(b.code, a.code))
}

// vote picks among the values of one time, of which no version says which is the newest. conflict is whether owners that
// have a vote differ. It is won when absent owners could not change it. versions may be nil.
func (r Rules) vote(vs []owned, versions *Versions) (best tsm1.Value, conflict, won bool, why string) {
	all := r.candidates(vs, versions)
	if !slices.ContainsFunc(all, func(c candidate) bool { return c.votes > 0 }) {
		for i := range all { // all owners are doubtful
			all[i].votes = all[i].all
		}
	}
	all = slices.DeleteFunc(all, func(c candidate) bool { return c.votes == 0 })
	slices.SortFunc(all, better)
	first := all[0]
	if len(all) == 1 {
		return first.value, false, true, WhyMajority
	}
	second := all[1]
	switch {
	case first.votes > second.votes:
		why = WhyMajority
	case first.written > second.written:
		why = WhyLikely
	case first.others > second.others:
		why = WhyMajority
	default:
		why = WhyOrder
	}
	return first.value, true, r.Absent == 0 || first.votes > second.votes+r.Absent, why
}

func (r Rules) candidates(vs []owned, versions *Versions) (all []candidate) {
	for _, v := range vs {
		code, written := canonical(v.Value), versions.replaced(v.owner, v.UnixNano())
		i := slices.IndexFunc(all, func(c candidate) bool { return bytes.Equal(c.code, code) })
		if i < 0 {
			i = len(all)
			all = append(all, candidate{value: v.Value, code: code})
		}
		c := &all[i]
		c.written = max(c.written, written)
		c.all++
		switch doubts, copied := r.doubts(v.owner), r.copied(v.owner); {
		case !doubts || copied && written > 0:
			c.votes++
		case !copied: // what is copied is no second voice
			c.others++
		}
	}
	return all
}

func (r Rules) doubts(owner int) bool { return r.Doubtful != nil && r.Doubtful[owner] }
func (r Rules) copied(owner int) bool { return r.Copied != nil && r.Copied[owner] }
