package whois

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
	"concord/internal/trust"
)

func TestNewestWordAndTheAddressDecide(t *testing.T) {
	t.Parallel()
	self := Self{Node: 2, Identity: "mine", Process: 7}
	own := Report{Index: 10, Member: true, Identity: "mine", Addr: "a:1"}
	with := func(change func(*Report)) Report {
		w := own
		change(&w)
		return w
	}
	good := with(func(w *Report) { w.Process = 7 })
	given := func(index uint64) Report {
		return with(func(w *Report) { w.Index, w.Identity, w.Addr = index, "other", "b:1" })
	}
	moved := func(process uint64) Report {
		return with(func(w *Report) { w.Index, w.Addr, w.Process = 11, "b:1", process })
	}
	for name, tc := range map[string]struct {
		own     Report
		reports []Report
		want    Verdict
		why     string
	}{
		"nobody answers":        {own, nil, Unconfirmed, "waits until another member"},
		"a member reaches it":   {own, []Report{good}, Confirmed, ""},
		"nobody reaches it":     {own, []Report{own}, Unconfirmed, "where no other member reaches it"},
		"one of two reaches it": {own, []Report{own, good}, Confirmed, ""},
		"another process is there": {
			own, []Report{good, with(func(w *Report) { w.Process = 8 })}, Refuted, "two processes",
		},
		"a newer state has another":  {own, []Report{good, given(11)}, Refuted, "another one at b:1"},
		"an older state has another": {own, []Report{good, given(9)}, Confirmed, ""},
		"its own state has another": {
			with(func(w *Report) { w.Identity = "other" }), nil, Refuted, "another one at a:1",
		},
		"it was removed":            {own, []Report{{Index: 11}}, Refuted, "was removed"},
		"it moved":                  {own, []Report{moved(7)}, Confirmed, ""},
		"the address is an old one": {own, []Report{moved(0), good}, Unconfirmed, "at b:1"},
		"it has no state":           {Report{}, []Report{good}, Confirmed, ""},
		"nobody has a state":        {Report{}, []Report{{}}, Unconfirmed, "where no other member"},
		"the place was never named": {
			own, []Report{with(func(w *Report) { w.Identity, w.Process = "", 7 })}, Confirmed, "",
		},
	} {
		members := []Member{func(context.Context) (Report, error) { return Report{}, errors.New("away") }}
		for _, w := range tc.reports {
			members = append(members, func(context.Context) (Report, error) { return w, nil })
		}
		got, why := self.Confirm(t.Context(), tc.own, members)
		if got != tc.want || !strings.Contains(why, tc.why) || got == Confirmed && why != "" {
			t.Errorf("%s: %v, %q", name, got, why)
		}
	}
}

// A member that hangs does not hold up a node that another one confirms, nor for long a node that nobody does.
func TestMemberThatHangsIsLeftOut(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context) (Report, error) { <-ctx.Done(); return Report{}, ctx.Err() }
	good := Report{Index: 1, Member: true, Identity: "mine", Addr: "a:1", Process: 7}
	confirms := func(context.Context) (Report, error) { return good, nil }
	self := Self{Node: 2, Identity: "mine", Process: 7}
	if got, why := self.Confirm(t.Context(), good, []Member{hangs, confirms}); got != Confirmed {
		t.Errorf("%v, %s", got, why)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, why := self.Confirm(ctx, good, []Member{hangs}); got != Unconfirmed {
		t.Errorf("%v, %s", got, why)
	}
}

func TestRecordIsWhatTheStateHas(t *testing.T) {
	t.Parallel()
	st := cluster.NewState()
	st.Index, st.DataNodes = 5, []cluster.Node{{ID: 2, TCPAddr: "a:1", Identity: "x"}}
	if got, want := Recorded(st, 2), (Report{Index: 5, Member: true, Identity: "x", Addr: "a:1"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := Recorded(st, 3), (Report{Index: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A node whose clock is wrong, or which has another secret, says so, and not that its address is wrong.
func TestRefusalIsTheReason(t *testing.T) {
	t.Parallel()
	own := Report{Index: 10, Member: true, Identity: "mine", Addr: "a:1"}
	self := Self{Node: 2, Identity: "mine", Process: 7}
	away := func(context.Context) (Report, error) { return Report{}, errors.New("away") }
	for _, refusal := range []error{trust.ErrClocks, trust.ErrRefused} {
		// It refuses the members, whose clocks are behind.
		refused := own
		refused.Refused = refusal.Error()
		v, why := self.Confirm(t.Context(), own, []Member{
			away, func(context.Context) (Report, error) { return own, nil },
			func(context.Context) (Report, error) { return refused, nil },
		})
		if v != Unconfirmed || !strings.Contains(why, "no other member reaches it: "+refusal.Error()) ||
			strings.Contains(why, "hostname") {
			t.Errorf("it refuses all members: %v, %q", v, why)
		}
		// The members refuse it. What they say has a time in it, and the reason stays the same.
		v, why = self.Confirm(t.Context(), own, []Member{away, func(context.Context) (Report, error) {
			return Report{}, fmt.Errorf("meta node m:1: %v (the token ended 5s ago)", refusal)
		}})
		if v != Unconfirmed || !strings.HasSuffix(why, "confirms that it is data node 2: "+refusal.Error()) {
			t.Errorf("all members refuse it: %v, %q", v, why)
		}
	}
}

// identity answers for the process at a place, and notes how long it has for that.
type identity struct {
	rpc.UnimplementedMembershipServer
	within time.Duration
}

func (i *identity) Identify(ctx context.Context, _ *rpc.IdentifyRequest) (*rpc.IdentifyResponse, error) {
	if end, ok := ctx.Deadline(); ok {
		i.within = time.Until(end)
	}
	return &rpc.IdentifyResponse{Process: 7}, nil
}

// Members, and the process at the place, have longer to answer after each attempt that nobody confirmed.
func TestLaterAttemptsTakeLonger(t *testing.T) {
	t.Parallel()
	pool, asked := &rpc.Pool{}, &identity{}
	t.Cleanup(func() { pool.Close() })
	addr := replicationtest.Serve(t, func(s grpc.ServiceRegistrar) { rpc.RegisterMembershipServer(s, asked) })
	own := Report{Index: 1, Member: true, Identity: "mine", Addr: addr}
	looks := func(ctx context.Context) (Report, error) {
		w := own
		w.Look(ctx, pool)
		return w, nil
	}
	for attempts, want := range map[int]time.Duration{0: 1, 1: 2, 2: 4, 3: 8, 100: 8} {
		self := Self{Node: 2, Identity: "mine", Process: 7, Attempts: attempts}
		want *= time.Second
		got, why := self.Confirm(t.Context(), own, []Member{looks})
		for range 20 { // on a busy machine, much of the time may pass before the process is asked
			if got == Confirmed && asked.within >= want/4 {
				break
			}
			got, why = self.Confirm(t.Context(), own, []Member{looks})
		}
		if got != Confirmed {
			t.Fatalf("%v, %s", got, why)
		}
		if asked.within > want || asked.within < want/4 {
			t.Errorf("after %d attempts the process has %v to answer, want at most %v and not much less", attempts, asked.within, want)
		}
	}
	w := own
	for range 20 {
		if w.Look(t.Context(), pool); w.Process == 7 && asked.within >= lookTimeout/4 {
			break
		}
	}
	if w.Process != 7 || asked.within > lookTimeout || asked.within < lookTimeout/4 {
		t.Errorf("process %d has %v to answer a member that knows of no limit", w.Process, asked.within)
	}
}
