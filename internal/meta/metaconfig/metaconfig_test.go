package metaconfig

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c")
	load := func(text string, env map[string]string) (*Config, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Program.Load(path, func(k string) string { return env[k] })
	}
	c, err := load("[meta]\ndir=\"/y\"", map[string]string{"INFLUXDB_META_DIR": "/x", "INFLUXDB_HOSTNAME": "meta1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Meta.Dir != "/x" || c.Advertised(":8091", &net.TCPAddr{Port: 8091}) != "meta1:8091" {
		t.Errorf("got %+v", c)
	}
	for text, want := range map[string]string{
		"[meta]\nhttps-enabled=true": ":2: [meta] https-enabled: needs https-certificate",
		"[meta]\nauth-enabled=true":  ":2: [meta] auth-enabled: needs internal-shared-secret",
		"[meta]\ndri=\"x\"":          ":2: [meta] dri: unknown setting",
		"[meta]\nbind-address=\"x\"": ":2: [meta] bind-address: ",
		"[meta]\ndir=3":              ":2: [meta] dir: ",
	} {
		if _, err := load(text, nil); err == nil || !strings.HasPrefix(err.Error(), path+want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
