package page

import (
	"encoding/json"
	"net/http"
	"testing"
)

func TestPassiveAndDrainingNodesAreMarked(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	c.SetPassive(2)
	c.SetDraining(3)
	for _, user := range []string{"root", "paul"} {
		w := request(p, http.MethodGet, "/state", "", as(user))
		var s State
		if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
			t.Fatalf("%s: %v: %s", user, err, w.Body)
		}
		if s.Nodes["1"].Draining || s.Nodes["2"].Draining || !s.Nodes["3"].Draining {
			t.Errorf("%s sees %+v", user, s.Nodes)
		}
		if s.Nodes["1"].Passive || !s.Nodes["2"].Passive {
			t.Errorf("%s sees %+v", user, s.Nodes)
		}
	}
}
