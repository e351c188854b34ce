package daemon

import "context"

// withTask is a node with a task that runs beside it.
type withTask[C any] struct {
	Node[C]
	end func()
}

// WithTask returns a node with a task that runs beside it. Close ends its context, and waits for it before it closes
// the node.
func WithTask[C any](n Node[C], task func(context.Context)) Node[C] {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		task(ctx)
	}()
	return withTask[C]{n, func() { cancel(); <-done }}
}

// Close ends the task, then the node.
func (w withTask[C]) Close() error {
	w.end()
	return w.Node.Close()
}
