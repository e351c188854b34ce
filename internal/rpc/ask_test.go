package rpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAskAllReturnsAnAnswerOfEachNodeInTheirOrder(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	last := make(chan struct{})
	got := AskAll(t.Context(), []string{"a", "b", "c"}, 0, func(_ context.Context, node string) (string, error) {
		switch node {
		case "a":
			<-last // so all are asked at the same time, and the first answers last
		case "b":
			return "", refused
		case "c":
			close(last)
		}
		return "here is " + node, nil
	})
	want := []Answer[string, string]{
		{Node: "a", Value: "here is a"}, {Node: "b", Err: refused}, {Node: "c", Value: "here is c"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
		t.Error(diff)
	}
	if got := AskAll(t.Context(), nil, 0, func(context.Context, string) (string, error) {
		panic("nobody")
	}); len(got) != 0 {
		t.Errorf("%v answers of no nodes", got)
	}
}

func TestAskAllGivesUpANodeThatHangs(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context, node int) error {
		if node == 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	tell := func(ctx context.Context, timeout time.Duration) []error {
		var errs []error
		for _, a := range TellAll(ctx, []int{1, 2}, timeout, hangs) {
			errs = append(errs, a.Err)
		}
		return errs
	}
	if diff := cmp.Diff([]error{nil, context.DeadlineExceeded}, tell(t.Context(), time.Millisecond),
		cmpopts.EquateErrors()); diff != "" {
		t.Errorf("after the timeout: %s", diff)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if diff := cmp.Diff([]error{nil, context.Canceled}, tell(ended, 0), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("when the context of the caller ends: %s", diff)
	}
}

func TestAskAllEndsTheContextOfAskWhenItReturns(t *testing.T) {
	t.Parallel()
	var asked context.Context
	AskAll(t.Context(), []int{1}, 0, func(ctx context.Context, _ int) (int, error) { asked = ctx; return 0, ctx.Err() })
	if asked.Err() == nil {
		t.Error("a call that ask left behind goes on")
	}
}
