package process

import (
	"os/exec"
	"testing"
)

// It builds the package time alone: all of Go's library takes minutes.
func TestClocksOfThisGoCanBeMoved(t *testing.T) {
	t.Parallel()
	overlay, err := clockOverlay(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "time").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
