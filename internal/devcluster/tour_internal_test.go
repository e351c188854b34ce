package devcluster

import (
	"encoding/json"
	"testing"
)

func TestReplicasMayAddFloatsInAnotherOrder(t *testing.T) {
	t.Parallel()
	rows := func(count, mean json.Number) [][]any { return [][]any{{count, mean}} }
	for _, tt := range []struct {
		other [][]any
		equal bool
	}{
		{rows("288000", "54.83154236111109"), true},
		{rows("288000", "54.831542361"), false},
		{rows("288001", "54.83154236111111"), false},
	} {
		err := (&tour{}).equal([][][]any{rows("288000", "54.83154236111111"), tt.other})
		if (err == nil) != tt.equal {
			t.Errorf("%v is equal: %t (%v)", tt.other, !tt.equal, err)
		}
	}
}
