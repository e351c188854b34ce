package entropy

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The packages of the core are read and tested alone: each imports, of Concord, only what is below it.
func TestCoreStandsAlone(t *testing.T) {
	t.Parallel()
	const base, durable, series = "concord/internal/entropy/", "concord/internal/durable", "concord/internal/seriesindex"
	const compactions, keylock = "concord/internal/compactions", "concord/internal/keylock"
	reads := []string{"pace", "tsmfile", "scan", durable, series}
	compares := append(slices.Clone(reads), "digest", "reconcile/riblt")
	for of, below := range map[string][]string{
		"api": nil, "pace": nil, "tsmfile": nil, "scan": {"pace", "tsmfile"},
		"scrub":  {"tsmfile", durable, compactions, keylock},
		"digest": reads, "reconcile": compares, "patch": compares,
	} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", base+of)
		cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", of, err)
		}
		for _, p := range strings.Fields(string(out)) {
			name := strings.TrimPrefix(p, base)
			if strings.HasPrefix(p, "concord/") && name != of && !slices.Contains(below, name) {
				t.Errorf("package %s imports %s", of, p)
			}
		}
	}
}

// The packages that need other nodes know them by the contract alone, and each other from the bottom up.
func TestPackagesPointDown(t *testing.T) {
	t.Parallel()
	layers := []string{"refusal", "copies", "check", "repair", "local", "service", "view", "routes", "transport"}
	may := map[string][]string{
		"check": {"copies", "refusal"}, "repair": {"copies", "refusal"}, "service": {"check", "repair", "copies", "refusal"},
		"routes": {"view"},
	}
	for _, of := range layers {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-f", `{{join .Imports "\n"}}`, "concord/internal/entropy/"+of)
		cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", of, err)
		}
		for _, p := range strings.Fields(string(out)) {
			name := strings.TrimPrefix(p, "concord/internal/entropy/")
			if slices.Contains(layers, name) && !slices.Contains(may[of], name) {
				t.Errorf("package %s imports %s", of, p)
			}
		}
	}
}
