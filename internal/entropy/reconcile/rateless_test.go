package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/reconcile/riblt"
)

// far makes an owner one of another node's.
func far(t testing.TB, o Owner) Owner {
	dir := t.TempDir()
	o.Summarize = func(ctx context.Context, key uint64) (Summary, error) { return NewSpool(ctx, dir, key, o.List) }
	return o
}

func all(t interface{ Fatal(...any) }, r Reconciler, owners []Owner) []Difference {
	var out []Difference
	if err := r.Differences(context.Background(), owners, func(d Difference) error {
		out = append(out, d.Clone())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// forbidden fails when the list of an owner is read by Flat.
func forbidden(o Owner) Owner {
	if o.Summarize != nil {
		o.List = func(context.Context, func(*digest.SeriesField) error) error {
			return errors.New("the list was asked for")
		}
	}
	return o
}

func TestRatelessFindsWhatFlatFinds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.SampledFrom([]int{2, 3, 5}).Draw(rt, "owners")
		own := rapid.IntRange(0, n-1).Draw(rt, "own")
		lists := make([][]digest.SeriesField, n)
		common := rapid.IntRange(0, 30).Draw(rt, "common") // makes symbols the cheaper way, or not
		for i := range lists {
			for s := range common {
				f := digest.SeriesField{Series: fmt.Appendf(nil, "common,host=%03d", s), Field: "v", Type: digest.Float}
				for w := range digest.Windows {
					f.Windows[w] = digest.Sum{Count: 1, Lo: uint64(s*64 + w)}
				}
				lists[i] = append(lists[i], f)
			}
		}
		for s := range rapid.IntRange(0, 12).Draw(rt, "series") {
			for i := range lists {
				f := digest.SeriesField{
					Series: fmt.Appendf(nil, "m,host=%03d", s/2), Field: fmt.Sprint("f", s%2),
					Type: rapid.SampledFrom([]digest.Type{1, 1, 1, 2}).Draw(rt, "type"),
				}
				some := false
				for _, w := range []int{0, 1, 31, 63} {
					if c := rapid.Uint64Range(0, 2).Draw(rt, "sum"); c > 0 {
						f.Windows[w], some = digest.Sum{Count: c, Lo: uint64(f.Type)<<32 | c}, true
					}
				}
				if some {
					lists[i] = append(lists[i], f)
				}
			}
		}
		owners := make([]Owner, n)
		for i := range owners {
			if owners[i] = list(lists[i]...); i != own {
				list := owners[i].List
				owners[i].Summarize = func(ctx context.Context, key uint64) (Summary, error) {
					return NewSpool(ctx, dir, key, list)
				}
			}
		}
		if d := cmp.Diff(all(rt, Flat{}, owners), all(rt, Rateless{Dir: dir}, owners)); d != "" {
			rt.Fatal(d)
		}
	})
}

// large are two lists of n windows, of which differ ones differ: some are missing here, some there, some are other
// ones.
func large(n, differ int) (mine, theirs Source) {
	rnd := rand.New(rand.NewPCG(7, 7))
	at := make(map[int]int, differ)
	for len(at) < differ {
		at[rnd.IntN(n)] = rnd.IntN(3)
	}
	source := func(side int) Source {
		return func(_ context.Context, fn func(*digest.SeriesField) error) error {
			for s := 0; s < n/digest.Windows; s++ {
				f := digest.SeriesField{
					Series: fmt.Appendf(nil, "cpu,host=server-%06d,region=eu-west", s), Field: "usage_idle",
					Type: digest.Float,
				}
				for w := range digest.Windows {
					i := s*digest.Windows + w
					f.Windows[w] = digest.Sum{
						Count: 10, Hi: uint64(i) * 0x9e3779b97f4a7c15, Lo: uint64(i) * 0xbf58476d1ce4e5b9,
					}
					if how, ok := at[i]; ok && how == side {
						f.Windows[w] = digest.Sum{}
					} else if ok && how == 2 && side == 1 {
						f.Windows[w].Lo++
					}
				}
				if err := fn(&f); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return source(0), source(1)
}

func TestRatelessAsksForNoList(t *testing.T) {
	t.Parallel()
	mine, theirs := large(64*200, 50)
	owners := []Owner{{List: mine}, far(t, Owner{List: theirs})}
	want := all(t, Flat{}, owners)
	for i := range owners {
		owners[i] = forbidden(owners[i])
	}
	if d := cmp.Diff(want, all(t, Rateless{Dir: t.TempDir()}, owners)); d != "" || len(want) == 0 {
		t.Fatal(len(want), d)
	}
}

// liar answers with something else than its set.
type liar struct {
	Summary
	symbols func([]riblt.Symbol)
	names   func(series []byte, field string) ([]byte, string)
	count   int
}

func (l liar) Elements() int { return l.Summary.Elements() + l.count }

func (l liar) Symbols(ctx context.Context, from, to int) ([]riblt.Symbol, error) {
	s, err := l.Summary.Symbols(ctx, from, to)
	s = slices.Clone(s)
	if l.symbols != nil {
		l.symbols(s)
	}
	return s, err
}

func (l liar) Names(ctx context.Context, hashes []uint64, fn func([]byte, string) error) error {
	return l.Summary.Names(ctx, hashes, func(series []byte, field string) error {
		if l.names != nil {
			series, field = l.names(series, field)
		}
		return fn(series, field)
	})
}

// Whatever a peer answers, the result is that of the lists.
func TestRatelessDoesWithoutALiarsAnswers(t *testing.T) {
	t.Parallel()
	base := func(n int) []digest.SeriesField {
		var out []digest.SeriesField
		for i := range n {
			out = append(out, digest.SeriesField{
				Series: fmt.Appendf(nil, "m,h=%03d", i), Field: "v", Type: 1,
				Windows: [64]digest.Sum{{Count: 1, Lo: uint64(i)}, {Count: 2, Lo: 5}, {Count: 2, Lo: 6}},
			})
		}
		return out
	}
	rnd := rand.New(rand.NewPCG(3, 3))
	for name, l := range map[string]liar{
		"random symbols": {symbols: func(s []riblt.Symbol) {
			for i := range s {
				s[i] = riblt.Symbol{
					Sum: riblt.Element{rnd.Uint64(), rnd.Uint64()}, Check: rnd.Uint64(), Count: rnd.Int64N(9) - 4,
				}
			}
		}},
		"damaged symbol": {symbols: func(s []riblt.Symbol) { s[0].Sum[1] ^= 4 }},
		"high count":     {count: 1 << 40},
		"low count":      {count: -1 << 40},
		"other names":    {names: func(s []byte, f string) ([]byte, string) { return s, f + "x" }},
		"same name":      {names: func([]byte, string) ([]byte, string) { return []byte("m,h=001"), "v" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs := list(base(100)...)
			mine := list(base(90)...)
			dir := t.TempDir()
			theirs.Summarize = func(ctx context.Context, key uint64) (Summary, error) {
				s, err := NewSpool(ctx, dir, key, theirs.List)
				l := l
				l.Summary = s
				return l, err
			}
			owners := []Owner{mine, theirs}
			if d := cmp.Diff(all(t, Flat{}, owners), all(t, Rateless{Dir: dir}, owners)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestErrorsOfOwnersAreErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("link cut")
	far := Owner{
		Addr: "data2:8088", List: func(context.Context, func(*digest.SeriesField) error) error { return broken },
		Summarize: func(context.Context, uint64) (Summary, error) { return nil, broken },
	}
	for _, r := range []Reconciler{Flat{}, Rateless{}} {
		err := r.Differences(t.Context(), []Owner{list(), far}, nil)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "compare with owner data2:8088: link cut") {
			t.Errorf("%T: got %v", r, err)
		}
	}
	far.List = list().List
	if err := (Rateless{Dir: "/dev/null/x"}).Differences(t.Context(), []Owner{list(), far}, nil); err == nil {
		t.Error("no error without a folder for temporary files")
	}
}

// Whoever asks a Spool, as another node does, has no pace of its own.
func TestSpoolRestsAtThePaceOfItsMaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looked atomic.Int64 // for requests of clients
		ctx := pace.With(t.Context(), pace.New(func() int64 { return looked.Add(1) }))
		mine, _ := large(6400, 3)
		s, err := NewSpool(ctx, t.TempDir(), 1, mine)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for what, ask := range map[string]func() error{
			"symbols": func() error { _, err := s.Symbols(context.Background(), 0, 1); return err },
			"names":   func() error { return s.Names(context.Background(), nil, nil) },
		} {
			time.Sleep(time.Second)
			before := looked.Load()
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			if looked.Load() == before {
				t.Errorf("%s are made without looking whether clients are served", what)
			}
		}
	})
}

func TestSpoolLeavesNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mine, _ := large(6400, 3)
	s, err := NewSpool(t.Context(), dir, 1, mine)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := s.Symbols(t.Context(), 0, MaxSymbols+1); err == nil {
		t.Error("symbols without bound")
	}
	if err := s.Names(t.Context(), make([]uint64, MaxHashes+1), nil); err == nil {
		t.Error("names without bound")
	}
}
