package distquery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/restrict"
	"concord/internal/seriesindex"
)

// entry is a line of a list of the schema: a measurement, or a tag that series of the measurement have.
type entry struct {
	measurement string
	tsdb.KeyValue
	// selected says which questions of a namesPlan select the measurement. It is nil where there is one question.
	selected []uint32
}

func (e *entry) compare(with *entry) int {
	return cmp.Or(cmp.Compare(e.measurement, with.measurement), compareTags(e.KeyValue, with.KeyValue))
}

func compareTags(a, b tsdb.KeyValue) int {
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
}

// schemaList is a list of the schema: ascending, each entry once, and read while it is made. Whoever reads it holds no
// more of it than is asked for, and what makes it ends as soon as nobody reads on. An error is the last that it yields.
type schemaList = iter.Seq2[entry, error]

// errEnough ends what makes a list: nobody reads on.
var errEnough = errors.New("nobody reads the rest of the list")

// listOf is the list of what run emits. run ends when emit returns an error.
func listOf(run func(emit func(entry) error) error) schemaList {
	return func(yield func(entry, error) bool) {
		err := run(func(e entry) error {
			if !yield(e, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(entry{}, err)
		}
	}
}

// mergeLists joins lists. An entry of several of them is there once, and what any of them says of it holds.
func mergeLists(lists []schemaList) schemaList {
	if len(lists) == 1 {
		return lists[0]
	}
	return listOf(func(emit func(entry) error) error {
		heads := make([]mergeHead, len(lists))
		for i, l := range lists {
			next, stop := iter.Pull2(l)
			defer stop()
			heads[i].next = next
			if err := heads[i].advance(); err != nil {
				return err
			}
		}
		for {
			var first *mergeHead
			for i := range heads {
				h := &heads[i]
				if h.there && (first == nil || h.compare(&first.entry) < 0) {
					first = h
				}
			}
			if first == nil {
				return nil
			}
			e := first.entry
			for i := range heads {
				h := &heads[i]
				if !h.there || h.compare(&e) != 0 {
					continue
				}
				if h != first {
					e.selected = append(slices.Clip(e.selected), h.selected...)
				}
				if err := h.advance(); err != nil {
					return err
				}
			}
			if err := emit(e); err != nil {
				return err
			}
		}
	})
}

// mergeHead is the first entry of a list that is not merged yet.
type mergeHead struct {
	entry
	there bool
	next  func() (entry, error, bool)
}

func (h *mergeHead) advance() (err error) {
	h.entry, err, h.there = h.next()
	return err
}

// windowLen is how many measurements are looked at together.
const windowLen = 256

// indexesOf are the indexes of shards on this node. There are none when none of the shards exists.
func indexesOf(store *tsdb.Store, ids []uint64) (set tsdb.IndexSet, err error) {
	set, err = seriesindex.SetOf(store.Shards(ids)...)
	return set.DedupeInmemIndexes(), err
}

// eachWindow walks the measurements of indexes, ascending, some at a time: see gets them, and indexes that know no
// other ones. So what the engine answers about measurements takes no more memory when there are many.
func eachWindow(ctx context.Context, set tsdb.IndexSet, see func(names [][]byte, of tsdb.IndexSet) error) (err error) {
	all, err := set.MeasurementIterator()
	if err != nil || all == nil {
		return err
	}
	defer func() {
		if e := all.Close(); err == nil {
			err = e
		}
	}()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var names [][]byte
		for len(names) < windowLen {
			name, err := all.Next()
			if err != nil {
				return err
			}
			if name == nil {
				break
			}
			names = append(names, bytes.Clone(name))
		}
		if len(names) == 0 {
			return nil
		}
		of := set
		of.Indexes = make([]tsdb.Index, len(set.Indexes))
		for i, index := range set.Indexes {
			of.Indexes[i] = narrowIndex{index, names}
		}
		if err := see(names, of); err != nil {
			return err
		}
	}
}

// narrowIndex is an index as if it had some measurements alone. Each index of a set lists all of these: what an index
// does not know of a measurement, another one does.
type narrowIndex struct {
	tsdb.Index
	names [][]byte
}

// MeasurementIterator is of tsdb.Index.
func (n narrowIndex) MeasurementIterator() (tsdb.MeasurementIterator, error) {
	return tsdb.NewMeasurementSliceIterator(n.names), nil
}

// listMeasurements lists the measurements of shards on this node that at least one of the questions selects and that
// the user may see, the first most of them; 0 is all.
func listMeasurements(
	ctx context.Context, store *tsdb.Store, allowed *restrict.Filter, ids []uint64, questions []influxql.Expr, most int,
) schemaList {
	return listOf(func(emit func(entry) error) error {
		set, err := indexesOf(store, ids)
		if err != nil {
			return err
		}
		asked := slices.Clone(questions)
		if allowed != nil {
			for i, q := range asked {
				asked[i] = influxql.RewriteExpr(influxql.CloneExpr(q), hasAllowedTag)
			}
		}
		n := 0
		return eachWindow(ctx, set, func(_ [][]byte, of tsdb.IndexSet) error {
			answers := make([][][]byte, len(asked))
			for i, q := range asked {
				if answers[i], err = of.MeasurementNamesByExpr(allowed.Authorizer(), q); err != nil {
					return err
				}
			}
			for e := range joinAnswers(answers) {
				if err := emit(e); err != nil {
					return err
				}
				if n++; n == most {
					return errEnough
				}
			}
			return nil
		})
	})
}

// joinAnswers makes one list of the answers to several questions, each of which is ascending.
func joinAnswers(answers [][][]byte) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		for {
			var first []byte
			for _, names := range answers {
				if len(names) > 0 && (first == nil || bytes.Compare(names[0], first) < 0) {
					first = names[0]
				}
			}
			if first == nil {
				return
			}
			e := entry{measurement: string(first)}
			for i, names := range answers {
				if len(names) == 0 || !bytes.Equal(names[0], first) {
					continue
				}
				answers[i] = names[1:]
				if len(answers) > 1 {
					e.selected = append(e.selected, uint32(i))
				}
			}
			if !yield(e) {
				return
			}
		}
	}
}
