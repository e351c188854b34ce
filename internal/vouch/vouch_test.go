package vouch

import (
	"context"
	"errors"
	"strings"
	"testing"

	"concord/internal/cluster"
)

func TestNewestWordAndTheAddressDecide(t *testing.T) {
	t.Parallel()
	self := Self{Node: 2, Identity: "mine", Process: 7}
	own := Word{Index: 10, Member: true, Identity: "mine", Addr: "a:1"}
	with := func(change func(*Word)) Word {
		w := own
		change(&w)
		return w
	}
	good := with(func(w *Word) { w.Process = 7 })
	given := func(index uint64) Word {
		return with(func(w *Word) { w.Index, w.Identity, w.Addr = index, "other", "b:1" })
	}
	moved := func(process uint64) Word {
		return with(func(w *Word) { w.Index, w.Addr, w.Process = 11, "b:1", process })
	}
	for name, tc := range map[string]struct {
		own   Word
		words []Word
		want  Verdict
		why   string
	}{
		"nobody answers":             {own, nil, Unproven, "waits until another member"},
		"a member reaches it":        {own, []Word{good}, Proven, ""},
		"nobody reaches it":          {own, []Word{own}, Unproven, "where no other member reaches it"},
		"one of two reaches it":      {own, []Word{own, good}, Proven, ""},
		"another process is there":   {own, []Word{good, with(func(w *Word) { w.Process = 8 })}, Refuted, "two processes"},
		"a newer state has another":  {own, []Word{good, given(11)}, Refuted, "another one at b:1"},
		"an older state has another": {own, []Word{good, given(9)}, Proven, ""},
		"its own state has another":  {with(func(w *Word) { w.Identity = "other" }), nil, Refuted, "another one at a:1"},
		"it was removed":             {own, []Word{{Index: 11}}, Refuted, "was removed"},
		"it moved":                   {own, []Word{moved(7)}, Proven, ""},
		"the address is an old one":  {own, []Word{moved(0), good}, Unproven, "at b:1"},
		"it has no state":            {Word{}, []Word{good}, Proven, ""},
		"nobody has a state":         {Word{}, []Word{{}}, Unproven, "where no other member"},
		"the place was never named":  {own, []Word{with(func(w *Word) { w.Identity, w.Process = "", 7 })}, Proven, ""},
	} {
		members := []Member{func(context.Context) (Word, error) { return Word{}, errors.New("away") }}
		for _, w := range tc.words {
			members = append(members, func(context.Context) (Word, error) { return w, nil })
		}
		got, why := self.Prove(t.Context(), tc.own, members)
		if got != tc.want || !strings.Contains(why, tc.why) || got == Proven && why != "" {
			t.Errorf("%s: %v, %q", name, got, why)
		}
	}
}

// A member that hangs does not hold up a node that another one vouches for, nor for long a node that nobody does.
func TestMemberThatHangsIsLeftOut(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context) (Word, error) { <-ctx.Done(); return Word{}, ctx.Err() }
	good := Word{Index: 1, Member: true, Identity: "mine", Addr: "a:1", Process: 7}
	vouches := func(context.Context) (Word, error) { return good, nil }
	self := Self{Node: 2, Identity: "mine", Process: 7}
	if got, why := self.Prove(t.Context(), good, []Member{hangs, vouches}); got != Proven {
		t.Errorf("%v, %s", got, why)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, why := self.Prove(ctx, good, []Member{hangs}); got != Unproven {
		t.Errorf("%v, %s", got, why)
	}
}

func TestRecordIsWhatTheStateHas(t *testing.T) {
	t.Parallel()
	st := cluster.NewState()
	st.Index, st.DataNodes = 5, []cluster.Node{{ID: 2, TCPAddr: "a:1", Identity: "x"}}
	if got, want := Record(st, 2), (Word{Index: 5, Member: true, Identity: "x", Addr: "a:1"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := Record(st, 3), (Word{Index: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
