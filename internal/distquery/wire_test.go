package distquery

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"
)

// list is an iterator over points.
type list[P any] struct {
	points []*P
}

func (l *list[P]) Next() (*P, error) {
	if len(l.points) == 0 {
		return nil, nil
	}
	p := l.points[0]
	l.points = l.points[1:]
	return p, nil
}
func (*list[P]) Stats() query.IteratorStats { return query.IteratorStats{} }
func (*list[P]) Close() error               { return nil }

// sendAll returns the chunks of points.
func sendAll[P any](t interface{ Fatal(...any) }, size int, points []*P) (chunks [][]byte) {
	e := &encoder{size: size, send: func(b []byte) error { chunks = append(chunks, b); return nil }}
	if err := e.encode(&list[P]{points}); err != nil {
		t.Fatal(err)
	}
	return chunks
}

// receiveAll reads chunks until the end or an error.
func receiveAll[P any](chunks [][]byte, fill func(*decoder, *P)) (points []*P, err error) {
	r := &decoded[P]{fill: fill, decoder: decoder{next: func() ([]byte, error) {
		if len(chunks) == 0 {
			return nil, nil
		}
		c := chunks[0]
		chunks = chunks[1:]
		return c, nil
	}}}
	for {
		p, err := r.Next()
		if p == nil || err != nil {
			return points, err
		}
		points = append(points, p)
	}
}

// sameTags compares what the engine looks at.
var sameTags = cmp.Comparer(func(a, b query.Tags) bool {
	return a.ID() == b.ID() && cmp.Equal(a.KeyValues(), b.KeyValues())
})

var sameFloat = cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })

func anyAux(t *rapid.T) any {
	return rapid.OneOf(
		rapid.Just[any](nil), rapid.Just[any]((*float64)(nil)), rapid.Just[any]((*int64)(nil)),
		rapid.Just[any]((*uint64)(nil)), rapid.Just[any]((*string)(nil)), rapid.Just[any]((*bool)(nil)),
		rapid.Map(rapid.Float64(), func(v float64) any { return v }),
		rapid.Map(rapid.Int64(), func(v int64) any { return v }), rapid.Map(rapid.Uint64(), func(v uint64) any { return v }),
		rapid.Map(rapid.String(), func(v string) any { return v }),
		rapid.Map(rapid.Bool(), func(v bool) any { return v }),
	).Draw(t, "aux")
}

// roundTrip checks that points of one type arrive as they are sent. p returns a
// point with the head given and any value.
func roundTrip[P any](fill func(*decoder, *P), p func(t *rapid.T, h head) *P) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			var points []*P
			for range rapid.IntRange(0, 200).Draw(t, "points") {
				h := head{
					Name: rapid.SampledFrom([]string{"", "cpu", "mem"}).Draw(t, "name"),
					Tags: rapid.SampledFrom([]query.Tags{
						{}, query.NewTags(map[string]string{"host": ""}), query.NewTags(map[string]string{"host": "a", "region": "eu"}),
					}).Draw(t, "tags"),
					Time:       rapid.Int64().Draw(t, "time"),
					Aggregated: rapid.SampledFrom([]uint32{0, 1, math.MaxUint32}).Draw(t, "aggregated"),
					Nil:        rapid.Bool().Draw(t, "nil"),
				}
				for range rapid.IntRange(0, 3).Draw(t, "n") {
					h.Aux = append(h.Aux, anyAux(t))
				}
				points = append(points, p(t, h))
			}
			got, err := receiveAll(sendAll(t, rapid.SampledFrom([]int{1, 100, 1 << 20}).Draw(t, "size"), points), fill)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(points, got, sameTags, sameFloat); d != "" {
				t.Fatal(d)
			}
		})
	}
}

type head struct {
	Name       string
	Tags       query.Tags
	Time       int64
	Aux        []any
	Aggregated uint32
	Nil        bool
}

func TestPointsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	t.Run("float", roundTrip(fillFloat, func(t *rapid.T, h head) *query.FloatPoint {
		p := &query.FloatPoint{Name: h.Name, Tags: h.Tags, Time: h.Time, Aux: h.Aux, Aggregated: h.Aggregated, Nil: h.Nil}
		if !h.Nil {
			p.Value = rapid.Float64().Draw(t, "value")
		}
		return p
	}))
	t.Run("integer", roundTrip(fillInteger, func(t *rapid.T, h head) *query.IntegerPoint {
		p := &query.IntegerPoint{Name: h.Name, Tags: h.Tags, Time: h.Time, Aux: h.Aux, Aggregated: h.Aggregated, Nil: h.Nil}
		if !h.Nil {
			p.Value = rapid.Int64().Draw(t, "value")
		}
		return p
	}))
	t.Run("unsigned", roundTrip(fillUnsigned, func(t *rapid.T, h head) *query.UnsignedPoint {
		p := &query.UnsignedPoint{Name: h.Name, Tags: h.Tags, Time: h.Time, Aux: h.Aux, Aggregated: h.Aggregated, Nil: h.Nil}
		if !h.Nil {
			p.Value = rapid.Uint64().Draw(t, "value")
		}
		return p
	}))
	t.Run("string", roundTrip(fillString, func(t *rapid.T, h head) *query.StringPoint {
		p := &query.StringPoint{Name: h.Name, Tags: h.Tags, Time: h.Time, Aux: h.Aux, Aggregated: h.Aggregated, Nil: h.Nil}
		if !h.Nil {
			p.Value = rapid.String().Draw(t, "value")
		}
		return p
	}))
	t.Run("boolean", roundTrip(fillBoolean, func(t *rapid.T, h head) *query.BooleanPoint {
		p := &query.BooleanPoint{Name: h.Name, Tags: h.Tags, Time: h.Time, Aux: h.Aux, Aggregated: h.Aggregated, Nil: h.Nil}
		if !h.Nil {
			p.Value = rapid.Bool().Draw(t, "value")
		}
		return p
	}))
}

// golden is two points of one series and a nil of another, as docs/format/points.md has them.
var golden = []byte{
	0x01, 3, 'c', 'p', 'u', 6, 'h', 'o', 's', 't', 0, 'a', 20, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f,
	0x0c, 10, 2, 2, 2, 1, 4, 1, 'x', 0, 0, 0, 0, 0, 0, 0, 0x40,
	0x03, 3, 'm', 'e', 'm', 0, 9,
}

func TestPointsHaveTheDocumentedBytes(t *testing.T) {
	t.Parallel()
	a := query.NewTags(map[string]string{"host": "a"})
	chunks := sendAll(t, 1<<10, []*query.FloatPoint{
		{Name: "cpu", Tags: a, Time: 10, Value: 1.5},
		{Name: "cpu", Tags: a, Time: 15, Value: 2, Aggregated: 2, Aux: []any{int64(-1), "x"}},
		{Name: "mem", Time: 10, Nil: true},
	})
	if d := cmp.Diff(golden, bytes.Join(chunks, nil)); d != "" {
		t.Error(d)
	}
}

// goldenShards is two points of one time and of two shards, as docs/format/points.md has them.
var goldenShards = []byte{
	0x11, 7, 3, 'm', 'e', 'm', 0, 2, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f,
	0x10, 0xac, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x40,
}

func TestPointsOfSeveralShardsHaveTheDocumentedBytes(t *testing.T) {
	t.Parallel()
	opt := query.IteratorOptions{Ascending: true, Ordered: true}
	itr := byShard([]opened{
		counted([]*query.FloatPoint{{Name: "mem", Time: 1, Value: 2}}, 300),
		counted([]*query.FloatPoint{{Name: "mem", Time: 1, Value: 1.5}}, 7),
	}, opt, false, nil)
	var got []byte
	if err := (&encoder{size: 1 << 10, send: func(b []byte) error {
		got = append(got, b...)
		return nil
	}}).encode(itr); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(goldenShards, got); d != "" {
		t.Error(d)
	}
}

func FuzzDecodePoints(f *testing.F) {
	f.Add(golden)
	f.Add(goldenShards)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, err := range []error{
			second(receiveAll([][]byte{b}, fillFloat)), second(receiveAll([][]byte{b}, fillInteger)),
			second(receiveAll([][]byte{b}, fillUnsigned)), second(receiveAll([][]byte{b}, fillString)),
			second(receiveAll([][]byte{b}, fillBoolean)),
		} {
			if err != nil && !errors.Is(err, errMalformed) {
				t.Error(err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// BenchmarkPoints sends and receives a chunk of points of one series.
func BenchmarkPoints(b *testing.B) {
	tags := query.NewTags(map[string]string{"host": "a", "region": "eu"})
	points := make([]*query.FloatPoint, 2000)
	for i := range points {
		points[i] = &query.FloatPoint{Name: "cpu", Tags: tags, Time: int64(i) * 1e9, Value: float64(i)}
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := receiveAll(sendAll(b, chunkSize, points), fillFloat); err != nil || len(got) != len(points) {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(points)), "ns/point")
}

func TestEqualOptionsHaveEqualEncodings(t *testing.T) {
	t.Parallel()
	mm := &influxql.Measurement{Database: db, Name: "cpu"}
	opt := query.IteratorOptions{Dimensions: []string{"host", "region"}, GroupBy: map[string]struct{}{}}
	for i := range 20 {
		opt.GroupBy[fmt.Sprint("tag", i)] = struct{}{}
	}
	want, err := encodeOptions(mm, opt)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got, err := encodeOptions(mm, opt); err != nil || !bytes.Equal(got, want) {
			t.Fatal("the encoding changes: ", err)
		}
	}
	_, back, err := decodeOptions(want)
	if d := cmp.Diff(opt.GroupBy, back.GroupBy); d != "" || err != nil {
		t.Error(d, err)
	}
}
