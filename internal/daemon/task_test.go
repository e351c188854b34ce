package daemon

import (
	"context"
	"testing"
)

func TestATaskEndsBeforeItsNode(t *testing.T) {
	t.Parallel()
	var order []string
	n := WithTask[string](closer(func() { order = append(order, "node") }), func(ctx context.Context) {
		<-ctx.Done()
		order = append(order, "task")
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if len(order) != 2 || order[0] != "task" {
		t.Errorf("ended in the order %v", order)
	}
}

// closer is a node that calls itself when it closes.
type closer func()

func (c closer) Reload(string) error { return nil }
func (c closer) Close() error        { c(); return nil }
