package client_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A data node does not link Raft, nor the server of a meta node.
func TestClientDoesNotLinkTheServer(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if strings.HasPrefix(p, "github.com/hashicorp/raft") || p == "concord/internal/meta/server" {
			t.Errorf("it links %s", p)
		}
	}
}
