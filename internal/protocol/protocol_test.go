package protocol

import (
	"errors"
	"strings"
	"testing"
)

// Of two nodes, the newer one decides: the older one knows nothing of it.
func TestNewerOfTwoNodesDecides(t *testing.T) {
	t.Parallel()
	old, next, strict := Speaks{1, 1}, Speaks{Current: 2, Oldest: 1}, Speaks{Current: 3, Oldest: 2}
	for _, tc := range []struct {
		a, b  Speaks
		mixed bool
	}{{old, old, true}, {old, next, true}, {next, strict, true}, {old, strict, false}, {strict, strict, true}} {
		refused := errors.Join(tc.a.With("b", Parse(tc.b.Text())), tc.b.With("a:8088", Parse(tc.a.Text())))
		if (refused == nil) != tc.mixed {
			t.Errorf("%+v and %+v: %v", tc.a, tc.b, refused)
		}
		if refused != nil && (!errors.Is(refused, ErrTooOld) || !strings.Contains(refused.Error(), "a:8088") ||
			strings.Contains(refused.Error(), "\n")) {
			t.Errorf("the refusal is %q", refused)
		}
	}
}

func TestNodesThatSayNothingSpeakTheFirstVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"": 1, "0": 1, "-3": 1, "x": 1, "99999999999": 1, "7": 7} {
		if got := Parse(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

func TestEachRefusalIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var o Once
	logged := 0
	for _, addr := range []string{"a:1", "a:2", "b:1", "b:1", "a:3", "odd", "odd"} {
		o.Do(addr, ErrTooOld, func() { logged++ })
	}
	if logged != 3 {
		t.Errorf("%d lines for three hosts", logged)
	}
}
