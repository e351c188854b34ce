package batch

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"pgregory.net/rapid"
)

func mustParse(t testing.TB, lines string) []models.Point {
	t.Helper()
	ps, err := models.ParsePointsString(lines)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func mustOf(t testing.TB, points []models.Point) *Batch {
	t.Helper()
	b := Of(points)
	if b == nil {
		t.Fatal("the points are not taken")
	}
	return b
}

// shown is all that the engine asks a point.
func shown(p models.Point) string {
	out := fmt.Sprintf("%q %q %q %v", p.Key(), p.Name(), p.Tags(), p.Time())
	for f := p.FieldIterator(); f.Next(); {
		out += fmt.Sprintf(" %q", f.FieldKey())
		switch f.Type() {
		case models.Float:
			v, err := f.FloatValue()
			out += fmt.Sprintf(" float %x %v", math.Float64bits(v), err)
		case models.Integer:
			v, err := f.IntegerValue()
			out += fmt.Sprintf(" integer %d %v", v, err)
		case models.Unsigned:
			v, err := f.UnsignedValue()
			out += fmt.Sprintf(" unsigned %d %v", v, err)
		case models.Boolean:
			v, err := f.BooleanValue()
			out += fmt.Sprintf(" boolean %v %v", v, err)
		case models.String:
			out += fmt.Sprintf(" string %q", f.StringValue())
		}
	}
	return out
}

func shownAll(points []models.Point) (out []string) {
	for _, p := range points {
		out = append(out, shown(p))
	}
	return out
}

// drawPoints draws points with names, values and orders of fields that clients may send.
func drawPoints(t *rapid.T) (out []models.Point) {
	text := rapid.SampledFrom([]string{
		"a", "cpu", "b c", "d,e", "f=g", `h"i`, `\`, `j\`, `k\,l`, "ü", "time", "\n", "\xff",
	})
	n := rapid.IntRange(1, 40).Draw(t, "points")
	for range n {
		tags := models.NewTags(rapid.MapOfN(text, text, 0, 3).Draw(t, "tags"))
		fields := make(models.Fields)
		for _, name := range rapid.SliceOfNDistinct(text, 1, 4, rapid.ID[string]).Draw(t, "fields") {
			fields[name] = rapid.OneOf(
				rapid.Float64Range(-1e300, 1e300).AsAny(), rapid.Int64().AsAny(), rapid.Bool().AsAny(), rapid.String().AsAny(),
				text.AsAny(),
			).Draw(t, "value")
		}
		at := rapid.Int64Range(models.MinNanoTime, models.MaxNanoTime).Draw(t, "time")
		p, err := models.NewPoint(text.Draw(t, "measurement"), tags, fields, time.Unix(0, at))
		if err == nil {
			// The engine reads names with some backslashes as others: what it reads counts.
			b, _ := p.MarshalBinary()
			if p, err = models.NewPointFromBytes(b); err == nil {
				out = append(out, p)
			}
		}
	}
	return out
}

// TestPointsOfABatchAreThoseOfTheEngine compares all that the engine asks, also after the way to another node.
func TestPointsOfABatchAreThoseOfTheEngine(t *testing.T) {
	t.Parallel()
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t)
		b := Of(points)
		if b == nil {
			return
		}
		taken++
		defer b.Release()
		want := shownAll(points)
		if d := cmp.Diff(want, shownAll(b.Points())); d != "" {
			t.Fatal(d)
		}
		sent, err := Decode(b.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer sent.Release()
		if d := cmp.Diff(want, shownAll(sent.Points())); d != "" {
			t.Fatal("sent: ", d)
		}
		for i, p := range sent.Points() { // of a second call
			if d := cmp.Diff(want[i], shown(Keep(p))); d != "" {
				t.Fatal("kept: ", d)
			}
			ours, _ := p.Fields()
			theirs, _ := points[i].Fields()
			if d := cmp.Diff(theirs, ours); d != "" {
				t.Fatal("fields: ", d)
			}
			for f := p.FieldIterator(); f.Next(); {
				if f.Type() == models.String && len(f.StringValue()) > p.StringSize() {
					t.Fatal("the engine would not see that the text is too long")
				}
			}
		}
	})
	if taken == 0 {
		t.Error("no points were taken")
	}
}

// TestOddPointsAreLeftToTheEngine has points about which the engine has something to say.
func TestOddPointsAreLeftToTheEngine(t *testing.T) {
	t.Parallel()
	good := mustParse(t, "cpu v=1 1")[0]
	raw := func(key, fields string, at time.Time) models.Point {
		p, err := models.NewPointFromBytes(encode([]byte(key), []byte("v=1"), at))
		if err != nil {
			t.Fatal(err)
		}
		b := encode([]byte(key), []byte(fields), at)
		p.(interface{ UnmarshalBinary([]byte) error }).UnmarshalBinary(b)
		return p
	}
	now := time.Unix(0, 1)
	for name, p := range map[string]models.Point{
		"no time":         raw("cpu", "v=1", time.Time{}),
		"a value":         raw("cpu", "v=x", now),
		"no value":        raw("cpu", "v=", now),
		"not a number":    raw("cpu", "v=NaN", now),
		"infinite":        raw("cpu", "v=inf", now),
		"no field's name": raw("cpu", "=1", now),
		"too large":       raw("cpu", "v=99999999999999999999i", now),
		"no measurement":  raw(",a=b", "v=1", now),
		"a long key":      raw(strings.Repeat("m", models.MaxKeyLength+1), "v=1", now),
	} {
		if b := Of([]models.Point{good, p}); b != nil {
			t.Errorf("%s: taken as %s", name, shown(b.Points()[1]))
		}
	}
}

// golden is what docs/format/batch.md shows.
const golden = "testdata/batch.hex"

func TestFormStays(t *testing.T) {
	t.Parallel()
	b := mustOf(t, mustParse(t, "cpu,host=a v=1.5,n=-1i 10\ncpu,host=a v=2,n=3i 15\nmem ok=true,s=\"x\" 10"))
	defer b.Release()
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), hex.Dump(b.Append(nil))); d != "" {
		t.Error(d)
	}
}

// TestDamageIsFound changes each byte, and cuts off each end.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	b := mustOf(t, mustParse(t, "cpu,host=a v=1.5,n=-1i 10\nmem ok=true,s=\"x\" 10"))
	defer b.Release()
	whole := b.Append(nil)
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i]++
		for _, data := range [][]byte{damaged, whole[:i]} {
			if got, err := Decode(data); err == nil {
				got.Release()
				t.Errorf("damage at byte %d is not found", i)
			}
		}
	}
}

// TestReleasedMemoryIsUsedAgain, and what is kept of a batch stays as it was.
func TestKeptPointsStay(t *testing.T) {
	t.Parallel()
	const lines = "cpu,host=a v=1.5,s=\"text\" 10\nmem,host=b n=1i 20"
	want := shownAll(mustParse(t, lines))
	var kept []models.Point
	b := mustOf(t, mustParse(t, lines))
	for _, p := range b.Points() {
		kept = append(kept, Keep(p))
	}
	b.Release()
	for range 100 { // some of them get its memory
		other := mustOf(t, mustParse(t, "disk,path=c used=7,s=\"others\" 30\ndisk used=8 40"))
		other.Release()
	}
	if d := cmp.Diff(want, shownAll(kept)); d != "" {
		t.Error(d)
	}
}

// sealed is an encoded batch with the checksum that it should have.
func sealed(body []byte) []byte {
	return seal(append([]byte{version}, body...), 0)
}

func FuzzDecode(f *testing.F) {
	for _, lines := range []string{
		"cpu,host=a v=1.5,n=-1i 10\ncpu,host=a v=2,n=3i 15\nmem ok=true,s=\"x\" 10", `m\,n,a\=b=c f\ g=1 5`, "m,,= v=1 1",
	} {
		if points, _ := models.ParsePointsString(lines); len(points) > 0 {
			if b := Of(points); b != nil {
				whole := b.Append(nil)
				f.Add(whole[1 : len(whole)-sumSize])
			}
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := Decode(sealed(body))
		if err != nil {
			return
		}
		defer b.Release()
		for _, p := range b.Points() {
			shown(p)
			p.StringSize()
		}
		again, err := Decode(b.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Release()
		if d := cmp.Diff(shownAll(b.Points()), shownAll(again.Points())); d != "" {
			t.Fatal(d)
		}
	})
}

func benchLines() string {
	var lines strings.Builder
	for i := range 5000 {
		h := i % 1000
		fmt.Fprintf(&lines, "cpu,host=host-%d,region=region-%d,dc=dc-%d usage=%d.%02d,load=%d.125,requests=%di %d\n",
			h, h%10, h%4, i%100, i%97, i%8, i, 1_700_000_000_000_000_000+int64(i/1000)*10_000_000_000)
	}
	return lines.String()
}

func BenchmarkOf(b *testing.B) {
	points := mustParse(b, benchLines())
	b.ReportAllocs()
	for b.Loop() {
		mustOf(b, points).Release()
	}
}

func BenchmarkAppend(b *testing.B) {
	all := mustOf(b, mustParse(b, benchLines()))
	var to []byte
	b.ReportAllocs()
	for b.Loop() {
		to = all.Append(to[:0])
	}
	b.ReportMetric(float64(len(to))/5000, "bytes/point")
}

func BenchmarkDecode(b *testing.B) {
	encoded := mustOf(b, mustParse(b, benchLines())).Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		got, err := Decode(encoded)
		if err != nil {
			b.Fatal(err)
		}
		got.Points()
		got.Release()
	}
}

// Points of two calls may be used at the same time: the race detector sees it when they share an iterator.
func TestPointsOfTwoCallsAreUsedTogether(t *testing.T) {
	t.Parallel()
	b := Of(mustParse(t, "cpu,host=a v=1,w=2 1\ncpu,host=b v=3,w=4 2"))
	defer b.Release()
	count := func(points []models.Point) (n int) {
		for range 1000 {
			for _, p := range points {
				for f := p.FieldIterator(); f.Next(); {
					n++
				}
			}
		}
		return n
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if n := count(b.Points()); n != 4000 {
				t.Errorf("%d fields, want 4000", n)
			}
		})
	}
	all.Wait()
}
