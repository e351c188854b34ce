package handoff

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A node that is up may refuse what is kept for it. The log must say so, and not with each attempt.
func TestLogSaysOnceThatANodeTakesNothing(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	n := &node{nodeQueues: nodeQueues{id: 3, s: &Service{log: zap.New(core)}}}
	refused := errors.New("the write came too late")
	var s standstill
	s.failed(n, refused)
	if s.end(n); logs.Len() != 0 {
		t.Errorf("a single failure is worth %v", logs.All())
	}
	s.failed(n, refused)
	s.since = s.since.Add(-standstillFor - time.Second)
	s.failed(n, refused)
	s.failed(n, refused)
	if logs.Len() != 1 || logs.All()[0].ContextMap()["error"] != refused.Error() {
		t.Fatalf("it says %v, want one line with the reason", logs.All())
	}
	s.end(n)
	s.end(n)
	if logs.Len() != 2 {
		t.Errorf("it says %v, want one more line when it takes something", logs.All())
	}
}
