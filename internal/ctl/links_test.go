package ctl_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goTool runs the go command without the network.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOFLAGS=")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// An operator copies influxd-ctl to any machine: it links neither the engine nor the servers.
func TestLinksNoServer(t *testing.T) {
	t.Parallel()
	ours := []string{
		"concord/cmd/influxd-ctl", "concord/internal/backup", "concord/internal/cli", "concord/internal/config",
		"concord/internal/ctl", "concord/internal/durable", "concord/internal/entropy/api",
		"concord/internal/ldap/ldapconfig",
		"concord/internal/meta/metaconfig", "concord/internal/meta/passwordhash", "concord/internal/meta/wire",
		"concord/internal/trust",
		"concord/internal/version",
	}
	servers := []string{
		"github.com/hashicorp/raft", "go.etcd.io/bbolt", "google.golang.org/grpc", "github.com/influxdata/influxql",
		"github.com/influxdata/influxdb/logger", "github.com/prometheus/client_golang",
		"github.com/influxdata/influxdb/cmd", "github.com/influxdata/influxdb/coordinator",
		"github.com/influxdata/influxdb/models", "github.com/influxdata/influxdb/query",
		"github.com/influxdata/influxdb/services", "github.com/influxdata/influxdb/tsdb",
	}
	for _, p := range strings.Fields(goTool(t, "list", "-deps", "concord/cmd/influxd-ctl")) {
		if strings.HasPrefix(p, "concord/") && !slices.Contains(ours, p) {
			t.Errorf("influxd-ctl links %s, which is not among the packages for clients", p)
		}
		for _, s := range servers {
			if p == s || strings.HasPrefix(p, s+"/") {
				t.Errorf("influxd-ctl links %s", p)
			}
		}
	}
}

func TestIsSmall(t *testing.T) {
	t.Parallel()
	const most = 15_000_000
	path := filepath.Join(t.TempDir(), "influxd-ctl")
	goTool(t, "build", "-o", path, "concord/cmd/influxd-ctl")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > most {
		t.Errorf("influxd-ctl has %d bytes, more than %d", info.Size(), most)
	}
}
