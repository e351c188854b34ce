package page

import (
	"encoding/json"
	"net/http"
	"testing"
)

func TestPassiveNodesAreMarked(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	c.SetPassive(2)
	for _, user := range []string{"root", "paul"} {
		w := request(p, http.MethodGet, "/state", "", as(user))
		var s State
		if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
			t.Fatalf("%s: %v: %s", user, err, w.Body)
		}
		if s.Nodes["1"].Passive || !s.Nodes["2"].Passive {
			t.Errorf("%s sees %+v", user, s.Nodes)
		}
	}
}
