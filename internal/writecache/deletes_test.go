package writecache

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
)

func ofAll(string, models.Tags) bool { return true }

// TestPointsThatAreWrittenBesideADeleteStay deletes the old value of a cache, as the engine does, while a newer one is
// written. Of those that are written once, about one in 30,000 is lost.
func TestPointsThatAreWrittenBesideADeleteStay(t *testing.T) {
	t.Parallel()
	old, newer := point(1, 1), point(1, 1000)
	key := tsm1.SeriesFieldKey(string(old.Key()), "v")
	cache := tsm1.NewCache(0)
	write := func(points []models.Point) error {
		at := points[0].UnixNano()
		return cache.WriteMulti(map[string][]tsm1.Value{key: {tsm1.NewFloatValue(at, float64(at))}})
	}
	allocate(cache)
	var deletes databaseDeletes
	rounds := 300_000
	if testing.Short() {
		rounds /= 10 // the race detector sees as much in fewer
	}
	for round := range rounds {
		if err := write([]models.Point{old}); err != nil {
			t.Fatal(err)
		}
		var start atomic.Bool
		var both sync.WaitGroup
		both.Go(func() {
			for !start.Load() {
			}
			for range round % 20 { // it meets another step of the write each time
				cache.Type([]byte(key))
			}
			defer deletes.begin(ofAll)()
			cache.DeleteRange([][]byte{[]byte(key)}, 0, old.UnixNano())
		})
		start.Store(true)
		if err := deletes.writeBeside(cache, []models.Point{newer}, write); err != nil {
			t.Fatal(err)
		}
		both.Wait()
		if n := cache.Values([]byte(key)).Len(); n != 1 {
			t.Fatalf("round %d: %d values are in the cache, want the newer one", round, n)
		}
		cache.DeleteRange([][]byte{[]byte(key)}, 0, newer.UnixNano())
	}
}

// TestPointsThatADeleteTookAreWrittenAgain has a delete that takes the points each time, and others that take them
// twice.
func TestPointsThatADeleteTookAreWrittenAgain(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	cache := engineOf(t, s, 1).Cache
	for _, times := range []int{0, 2, maxWrites} {
		writes := 0
		write := func(points []models.Point) error {
			err := s.Store.WriteToShard(tsdb.WriteContext{}, 1, points)
			if writes++; writes <= times {
				cache.DeleteRange(cache.Keys(), math.MinInt64, math.MaxInt64)
			}
			return err
		}
		allocate(cache)
		ended := BeforeDelete(s.Store, "db", ofAll)
		err := deletesOfShard(s.Shard(1)).writeBeside(cache, []models.Point{point(1, 1), point(2, 2)}, write)
		ended()
		if times < maxWrites && (err != nil || writes != times+1 || points(t, s, 1, 1)+points(t, s, 1, 2) != 2) {
			t.Errorf("a delete takes the points %d times: %d writes, %v", times, writes, err)
		}
		if times == maxWrites && !errors.Is(err, errTaken) {
			t.Errorf("a delete takes the points each time: %v", err)
		}
	}
}

// TestOverwriteThatADeleteTookIsWrittenAgain has the value from before the overwrite in a snapshot of the cache.
func TestOverwriteThatADeleteTookIsWrittenAgain(t *testing.T) {
	t.Parallel()
	cache := tsm1.NewCache(0)
	key := tsm1.SeriesFieldKey(string(point(1, 0).Key()), "v")
	at := func(v float64) models.Point {
		p := point(1, 7)
		return models.MustNewPoint(string(p.Name()), p.Tags(), models.Fields{"v": v}, p.Time())
	}
	writes := 0
	write := func(points []models.Point) error {
		if writes++; writes == 1 {
			return nil // a delete takes it
		}
		for _, p := range points {
			fields, err := p.Fields()
			if err != nil {
				return err
			}
			value := tsm1.NewFloatValue(p.UnixNano(), fields["v"].(float64))
			if err := cache.Write([]byte(key), []tsm1.Value{value}); err != nil {
				return err
			}
		}
		return nil
	}
	allocate(cache)
	if err := cache.Write([]byte(key), []tsm1.Value{tsm1.NewFloatValue(7, 1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Snapshot(); err != nil {
		t.Fatal(err)
	}
	var d databaseDeletes
	defer d.begin(ofAll)()
	if err := d.writeBeside(cache, []models.Point{at(2), at(3)}, write); err != nil {
		t.Fatal(err)
	}
	if v := cache.Values([]byte(key)); len(v) != 1 || v[0].Value() != 3.0 {
		t.Errorf("the cache has %v, want the last value that was written", v)
	}
}

// TestFieldsThatADeleteTookAreWrittenInTheirOrder writes two fields of a point, and one of them again. A delete takes
// the field that was written once.
func TestFieldsThatADeleteTookAreWrittenInTheirOrder(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	cache, writes := engineOf(t, s, 1).Cache, 0
	write := func(points []models.Point) error {
		err := s.Store.WriteToShard(tsdb.WriteContext{}, 1, points)
		if writes++; writes == 1 {
			cache.DeleteRange([][]byte{tsm1.SeriesFieldKeyBytes("m", "a")}, math.MinInt64, math.MaxInt64)
		}
		return err
	}
	points, err := models.ParsePointsString("m a=1,b=1 7\nm b=2 7")
	if err != nil {
		t.Fatal(err)
	}
	allocate(cache)
	defer BeforeDelete(s.Store, "db", ofAll)()
	if err := deletesOfShard(s.Shard(1)).writeBeside(cache, points, write); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]float64{"a": 1, "b": 2} {
		if v := cache.Values(tsm1.SeriesFieldKeyBytes("m", field)); len(v) != 1 || v[0].Value() != want {
			t.Errorf("field %s is %v, want %v", field, v, want)
		}
	}
}

// TestDeletesOfOtherSeriesDoNotCount has deletes that run before, during and after a write.
func TestDeletesOfOtherSeriesDoNotCount(t *testing.T) {
	t.Parallel()
	var d databaseDeletes
	is := func(host string) About {
		return func(_ string, t models.Tags) bool { return t.GetString("host") == host }
	}
	host := func(name string) models.Tags { return models.NewTags(map[string]string{"host": name}) }
	d.begin(is("over"))()
	before := d.now()
	if ran(before, d.now()) != nil {
		t.Error("a delete that has ended counts")
	}
	endA := d.begin(is("a"))
	of := ran(before, d.now())
	if !of("m", host("a")) || of("m", host("b")) {
		t.Error("a delete that runs counts for another series")
	}
	before = d.now()
	endA()
	endB := d.begin(is("b"))
	defer endB()
	if of := ran(before, d.now()); !of("m", host("a")) || !of("m", host("b")) || of("m", host("c")) {
		t.Error("not the two deletes count that ran")
	}
	d.begin(is("short"))()
	if of := ran(before, d.now()); !of("m", host("c")) {
		t.Error("of a delete that began and ended meanwhile it is not known what it was about")
	}
}

// TestPointsThatTheEngineRefusesAreNotWrittenAgain writes beside a delete that runs for long.
func TestPointsThatTheEngineRefusesAreNotWrittenAgain(t *testing.T) {
	t.Parallel()
	s := mustOpen(t)
	defer BeforeDelete(s.Store, "db", ofAll)()
	other, err := models.ParsePointsString(`m,s=3 v="x" 3`)
	if err != nil {
		t.Fatal(err)
	}
	written := []models.Point{point(1, 1), point(2, 2), other[0]}
	switch err := s.WriteToShard(tsdb.WriteContext{}, 1, written).(type) {
	case tsdb.PartialWriteError:
		if err.Dropped != 1 {
			t.Errorf("%d points are refused", err.Dropped)
		}
	default:
		t.Errorf("the error is %v, want one of a field's type", err)
	}
	if points(t, s, 1, 1) != 1 || points(t, s, 1, 2) != 1 || points(t, s, 1, 3) != 0 {
		t.Error("not the points are there that the engine takes")
	}
}

// TestDeleteBesideTheFirstWriteOfAShard has deletes look at caches that are being allocated, and at ones that are being
// freed. The race detector sees that. With the index inmem a delete looks at all shards that are not in files.
func TestDeleteBesideTheFirstWriteOfAShard(t *testing.T) {
	t.Parallel()
	s := mustOpenWith(t, tsdb.InmemIndexName)
	if err := s.WriteToShard(tsdb.WriteContext{}, 1, []models.Point{point(1, 1)}); err != nil {
		t.Fatal(err)
	}
	for id := uint64(2); id < 30; id++ {
		if err := s.CreateShard("db", "rp", id, true); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			defer BeforeDelete(s.Store, "db", ofAll)()
			m := &influxql.Measurement{Name: "m"}
			if err := s.DeleteSeries("db", []influxql.Source{m}, influxql.MustParseExpr("time < 0")); err != nil {
				t.Error(err)
			}
		})
		if id%2 == 0 {
			all.Go(func() { s.freeCold(s.Shard(id - 1)) })
		}
		if err := s.WriteToShard(tsdb.WriteContext{}, id, []models.Point{point(1, int64(id))}); err != nil {
			t.Error(err)
		}
		all.Wait()
		if n := points(t, s, id, 1); n != 1 {
			t.Errorf("shard %d has %d points", id, n)
		}
	}
}
