package copystate

import (
	"testing"
	"time"
)

func TestBeginningLaterThan(t *testing.T) {
	t.Parallel()
	first := time.Unix(1_700_000_000, 0)
	began, together, late := BegunAt(first), BegunAt(first.Add(TogetherWithin)), BegunAt(first.Add(TogetherWithin+1))
	for _, c := range []struct {
		name     string
		b, other Beginning
		want     bool
	}{
		{"both were found equal", FoundEqual, FoundEqual, false},
		{"a write began it, the other was found equal", began, FoundEqual, true},
		{"it was found equal, a write began the other", FoundEqual, began, false},
		{"both began together", together, began, false},
		{"it began late", late, began, true},
		{"the other began late", began, late, false},
		{"it began at a time that cannot be read, the other was found equal", LongAgo, FoundEqual, true},
		{"the other began at a time that cannot be read", began, LongAgo, true},
		{"it was made from files, the other was found equal", FromFiles, FoundEqual, true},
		{"it was made from files, a write began the other", FromFiles, began, true},
		{"a write began it, the other was made from files", began, FromFiles, false},
		{"both were made from files", FromFiles, FromFiles, false},
	} {
		if got := c.b.LaterThan(c.other); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestBeginningTime(t *testing.T) {
	t.Parallel()
	want := time.Unix(1_700_000_000, 5)
	if at, ok := BegunAt(want).Time(); !ok || !at.Equal(want) {
		t.Errorf("a write began it at %v, %v", at, ok)
	}
	for _, b := range []Beginning{FoundEqual, FromFiles} {
		if at, ok := b.Time(); ok {
			t.Errorf("no write began %d, but it has the time %v", b, at)
		}
	}
}
