package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"golang.org/x/sync/errgroup"

	"concord/internal/seriesindex"
)

// tagSets returns the series that a statement reads, in the order of the engine.
func (p *plan) tagSets(name string, opt query.IteratorOptions) ([]*query.TagSet, error) {
	index, err := seriesindex.Of(p.shard)
	if err != nil {
		return nil, err
	}
	if own, ok := index.(interface {
		TagSets(name []byte, opt query.IteratorOptions) ([]*query.TagSet, error)
	}); ok { // the index in memory, which tells the shard's series from the database's
		return own.TagSets([]byte(name), opt)
	}
	file, err := p.shard.SeriesFile()
	if err != nil {
		return nil, err
	}
	if opt.Condition == nil && query.AuthorizerIsOpen(opt.Authorizer) {
		return p.allTagSets(index, file, []byte(name), opt)
	}
	return tsdb.IndexSet{Indexes: []tsdb.Index{index}, SeriesFile: file}.TagSets(file, []byte(name), opt)
}

// manySeries is how many are at least worth a worker.
const manySeries = 4096

// allTagSets is what the engine's IndexSet.TagSets returns for all series of a measurement. The engine looks at one
// after the other, and then sorts those of each tag set. Here every processor does so for a part of them, and the
// sorted parts are merged.
func (p *plan) allTagSets(
	index tsdb.Index, file *tsdb.SeriesFile, name []byte, opt query.IteratorOptions,
) ([]*query.TagSet, error) {
	defer file.Retain()()
	itr, err := index.MeasurementSeriesIDIterator(name)
	if err != nil || itr == nil {
		return nil, err
	}
	var ids []uint64
	for {
		e, err := itr.Next()
		if err != nil {
			itr.Close()
			return nil, err
		}
		if e.SeriesID == 0 {
			break
		}
		ids = append(ids, e.SeriesID)
	}
	if err := itr.Close(); err != nil {
		return nil, err
	}
	dims := slices.Sorted(slices.Values(opt.Dimensions))
	n := min(cap(slots), len(ids)/manySeries+1)
	found := make([]map[string][]string, n)
	var live atomic.Int64
	var workers errgroup.Group
	for i := range n {
		some := ids[i*len(ids)/n : (i+1)*len(ids)/n]
		workers.Go(func() (err error) {
			found[i], err = keysByTags(file, name, some, dims, func(n int) error {
				if n := live.Add(int64(n)); opt.MaxSeriesN > 0 && n > int64(opt.MaxSeriesN) {
					return fmt.Errorf("max-select-series limit exceeded: (%d/%d)", opt.MaxSeriesN+1, opt.MaxSeriesN)
				}
				return p.ended()
			})
			return err
		})
	}
	if err := workers.Wait(); err != nil {
		return nil, err
	}
	all := found[0]
	for _, more := range found[1:] {
		for tags, keys := range more {
			all[tags] = mergeSorted(all[tags], keys)
		}
	}
	sets := make([]*query.TagSet, 0, len(all))
	for _, tags := range slices.Sorted(maps.Keys(all)) {
		sets = append(sets, &query.TagSet{Key: []byte(tags), SeriesKeys: all[tags]})
	}
	return sets, nil
}

// keysByTags returns the keys of those series that are not deleted, by the values of dims as the engine writes them,
// each list sorted. count is told how many there are, some at a time.
func keysByTags(
	file *tsdb.SeriesFile, name []byte, ids []uint64, dims []string, count func(n int) error,
) (map[string][]string, error) {
	byTags := make(map[string][]string)
	var (
		tags models.Tags
		key  []byte
		buf  []byte // keys, one after the other: one string has them all
		ends []int
		sets []string // of each
	)
	for chunk := range slices.Chunk(ids, endedEvery) {
		buf, ends, sets = buf[:0], ends[:0], sets[:0]
		last := ""
		for _, id := range chunk {
			if file.IsDeleted(id) {
				continue
			}
			of := file.SeriesKey(id)
			if len(of) == 0 {
				continue
			}
			_, tags = tsdb.ParseSeriesKeyInto(of, tags)
			if len(dims) > 0 {
				if of := tsdb.MakeTagsKey(dims, tags); string(of) != last {
					last = string(of)
				}
			}
			key = models.AppendMakeKey(key[:0], name, tags)
			buf = append(buf, key...)
			ends, sets = append(ends, len(buf)), append(sets, last)
		}
		if err := count(len(ends)); err != nil {
			return nil, err
		}
		keys, from := string(buf), 0
		for i, end := range ends {
			byTags[sets[i]] = append(byTags[sets[i]], keys[from:end])
			from = end
		}
	}
	for _, keys := range byTags {
		slices.Sort(keys)
	}
	return byTags, nil
}

// mergeSorted merges two sorted lists.
func mergeSorted(a, b []string) []string {
	if len(a) == 0 || len(b) == 0 || a[len(a)-1] <= b[0] {
		return append(a, b...)
	}
	all := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] <= b[0] {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}
