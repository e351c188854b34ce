package datanode

import (
	"net"
	"testing"
)

// The protocol of influxd backup has no credentials, so it is not answered where something asks for them.
func TestBackupsOfOSSAreForWhoTheSettingSays(t *testing.T) {
	t.Parallel()
	here, far := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	for name, c := range map[string]struct {
		change            func(*Config)
		near, fromOutside bool
	}{
		"the default":          {func(*Config) {}, true, true},
		"with authentication":  {func(c *Config) { c.HTTPD.AuthEnabled = true }, false, false},
		"with a shared secret": {func(c *Config) { c.Meta.InternalSharedSecret = "s" }, false, false},
		"with TLS":             {func(c *Config) { c.Cluster.HTTPSEnabled = true }, false, false},
		"local": {func(c *Config) {
			c.HTTPD.AuthEnabled, c.Cluster.OSSBackup = true, localBackup
		}, true, false},
		"all":  {func(c *Config) { c.HTTPD.AuthEnabled, c.Cluster.OSSBackup = true, allBackup }, true, true},
		"none": {func(c *Config) { c.Cluster.OSSBackup = noBackup }, false, false},
	} {
		cfg := NewConfig()
		c.change(cfg)
		if got := cfg.admitBackup(here) == nil; got != c.near {
			t.Errorf("%s: this machine is admitted: %v", name, got)
		}
		if got := cfg.admitBackup(far) == nil; got != c.fromOutside {
			t.Errorf("%s: another machine is admitted: %v", name, got)
		}
	}
	cfg := NewConfig()
	cfg.Cluster.OSSBackup = "maybe"
	if err := cfg.Validate(); err == nil {
		t.Error("an unknown value is taken")
	}
}
