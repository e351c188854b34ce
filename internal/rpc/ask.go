package rpc

import (
	"context"
	"sync"
	"time"
)

// Answer is what one node answered, or why it did not.
type Answer[N, A any] struct {
	Node  N
	Value A
	Err   error // nil when the node answered
}

// AskAll asks all nodes something at the same time. It returns when each has answered or failed, with one Answer for
// each node, in the order of the nodes. The context of ask ends after the timeout, if that is not 0, and when AskAll
// returns. AskAll waits for each ask, so ask must return when its context ends.
//
// It is for questions of which every answer matters. Code that goes on with the first answer, or with those of a
// quorum, has its own loop.
func AskAll[N, A any](
	ctx context.Context, nodes []N, timeout time.Duration, ask func(context.Context, N) (A, error),
) []Answer[N, A] {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	answers := make([]Answer[N, A], len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			value, err := ask(ctx, n)
			answers[i] = Answer[N, A]{Node: n, Value: value, Err: err}
		})
	}
	wg.Wait()
	return answers
}

// TellAll is AskAll for messages that are answered with an error or nothing.
func TellAll[N any](
	ctx context.Context, nodes []N, timeout time.Duration, tell func(context.Context, N) error,
) []Answer[N, struct{}] {
	return AskAll(ctx, nodes, timeout, func(ctx context.Context, n N) (struct{}, error) {
		return struct{}{}, tell(ctx, n)
	})
}
