package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/datanode"
	"concord/internal/meta/metaconfig"
)

// What an official file of a data node has loads. Each setting without a function is noted, once.
func TestOfficialDataFileLoads(t *testing.T) {
	t.Parallel()
	c, err := datanode.Program.Load(file(t, `
reporting-disabled = true
reporting-enabled = false
bind-address = "127.0.0.1:8088"
gossip-frequency = "3s"

[enterprise]
  license-key = ""
  license-path = "/etc/influxdb/license"

[meta]
  dir = "/var/lib/influxdb/meta"
  retention-autocreate = true
  logging-enabled = true

[data]
  dir = "/var/lib/influxdb/data"
  engine = "tsm1"
  wal-dir = "/var/lib/influxdb/wal"

[coordinator]
  write-timeout = "15s"
  max-concurrent-deletes = 2
  https-insecure-certificate = true

[hinted-handoff]
  max-age = "7d"

[retention]
  check-interval = "1d12h"

[[graphite]]
[[collectd]]
  enabled = false
[[opentsdb]]
[[udp]]

[flux-controller]
  query-concurrency = 0

[ifql]
  enabled = true
`), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(c.Cluster.WriteTimeout); got != 15*time.Second {
		t.Errorf("[coordinator] write-timeout is %s", got)
	}
	if c.Data.MaxConcurrentDeletes != 2 || !c.Cluster.HTTPSInsecureTLS {
		t.Errorf("renamed settings: %d, %t", c.Data.MaxConcurrentDeletes, c.Cluster.HTTPSInsecureTLS)
	}
	if a, b := time.Duration(c.HintedHandoff.MaxAge), time.Duration(c.Retention.CheckInterval); a != 7*24*time.Hour ||
		b != 36*time.Hour {
		t.Errorf("durations with days: %s, %s", a, b)
	}
	var names []string
	for _, note := range c.Notes {
		name, _, ok := strings.Cut(note, " has no effect: ")
		if !ok || strings.HasSuffix(note, ".") {
			t.Errorf("a note reads: %s", note)
		}
		names = append(names, name)
	}
	want := []string{
		"[data] engine", "[enterprise]", "[flux-controller]", "[ifql]", "[meta] logging-enabled", "[meta] retention-autocreate",
		"gossip-frequency", "reporting-disabled", "reporting-enabled",
	}
	if !slices.Equal(names, want) {
		t.Errorf("noted: %q, want %q", names, want)
	}
}

func TestOfficialMetaFileLoads(t *testing.T) {
	t.Parallel()
	c, err := metaconfig.Program.Load(file(t, `
bind-address = "127.0.0.1:8091"
[enterprise]
  license-key = "x"
[meta]
  dir = "/var/lib/influxdb/meta"
  gossip-frequency = "5s"
  announcement-expiration = "30s"
  https-insecure-certificate = true
  raft-portal-auth-required = false
`), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Notes) != 5 || !c.Meta.HTTPSInsecureTLS {
		t.Errorf("notes %q, https-insecure-tls %t", c.Notes, c.Meta.HTTPSInsecureTLS)
	}
}

// The error names the line of the file, also where the section has another name there.
func TestErrorsOfTranslatedFiles(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[data]\ncache-max-memory-sise = 1": ":2: [data] cache-max-memory-sise: unknown setting; " +
			"did you mean cache-max-memory-size?",
		"\n[clutser]\nx = 1":                                                   ":2: clutser: unknown section; did you mean cluster?",
		"hostnam = \"a\"":                                                      ":1: hostnam: unknown setting; did you mean hostname?",
		"[http]\nquite-something-else = 1":                                     ":2: [http] quite-something-else: unknown setting",
		"[coordinator]\nwrite-timeout = 1\n":                                   ":2: [coordinator] write-timeout: ",
		"[coordinator]\nwrite-timeout = \"x\"\n":                               ":2: [coordinator] write-timeout: ",
		"[coordinator]\nwrite-timeoud = \"1s\"\n":                              ":2: [coordinator] write-timeoud: unknown setting; did you mean write-timeout?",
		"[coordinator]\nquery-timeout=\"1s\"\n[cluster]\nquery-timeout=\"2s\"": "[coordinator] query-timeout and [cluster] query-timeout are the same setting",
		"[[udp]]\n[[udp]]\nenabled = true\nprecision = \"d\"":                  ":4: [udp] precision: \"d\" is none of",
		"[[udp]]\n[[udp]]\nprecisoin = \"s\"":                                  ":3: [udp] precisoin: unknown setting; did you mean precision?",
		"[retention]\ncheck-interval = \"99999999999w\"":                       ":2: [retention] check-interval: ",
	} {
		_, err := datanode.Program.Load(file(t, text), noEnvironment)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
