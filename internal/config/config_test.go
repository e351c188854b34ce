package config_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"

	"concord/internal/config"
	"concord/internal/datanode"
	"concord/internal/meta/metaconfig"
)

func noEnvironment(string) string { return "" }

func printed[C config.Settings](t *testing.T, p config.Program[C], c C) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Print(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "influxdb.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// testSample is what holds for the printed defaults of every program.
func testSample[C config.Settings](t *testing.T, p config.Program[C], command, etc string) {
	t.Parallel()
	sample := printed(t, p, p.New())

	setting := regexp.MustCompile(`^(# )?[a-z-]+ = .+$`)
	comment := regexp.MustCompile(`(?s)^# [A-Z].*\.\s(# )?Default:\s.+\.$`)
	for _, part := range strings.Split(strings.TrimSuffix(sample, "\n"), "\n\n") {
		about, line := "", part
		if i := strings.LastIndex(part, "\n"); i >= 0 {
			about, line = part[:i], part[i+1:]
		}
		if setting.MatchString(line) && !comment.MatchString(about) {
			t.Errorf("%s has no comment of the form \"What it is, in which unit.\": give its field a doc tag", line)
		}
		for _, l := range strings.Split(about, "\n") {
			if len(l) > 100 {
				t.Errorf("a line of a comment has %d bytes: %s", len(l), l)
			}
		}
	}

	c, err := p.Load(file(t, sample), noEnvironment)
	if err != nil {
		t.Fatalf("the sample does not load: %v", err)
	}
	level := cmp.Comparer(func(a, b zap.AtomicLevel) bool { return a.Level() == b.Level() })
	if d := cmp.Diff(p.New(), c, cmpopts.EquateEmpty(), level); d != "" {
		t.Errorf("the sample does not load to the defaults:\n%s", d)
	}

	b, err := os.ReadFile(filepath.Join("../../etc", etc))
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != sample {
		t.Errorf("etc/%s is not what is printed: go run ./cmd/%s config > etc/%s\n%s",
			etc, command, etc, cmp.Diff(string(b), sample))
	}
}

func TestSampleOfDataNodeIsCompleteAndLoads(t *testing.T) {
	testSample(t, datanode.Program, "influxd", "influxdb.conf")
}

func TestSampleOfMetaNodeIsCompleteAndLoads(t *testing.T) {
	testSample(t, metaconfig.Program, "influxd-meta", "influxdb-meta.conf")
}

func TestWhatIsSetIsPrintedAndLoadsAgain(t *testing.T) {
	t.Parallel()
	text := `
hostname = "data1"
[http]
max-body-size = "10m"
headers = { "X-B" = "2", "X-A" = "1" }
https-client-auth-type = "RequireAndVerifyClientCert"
https-client-ca = { paths = ["/ca.pem"], include-system = true }
access-log-status-filters = ["404", "5xx"]
enqueued-write-timeout = "1m30s"
[anti-entropy]
check-interval = "1h"
max-rate = 5
`
	first, err := datanode.Program.Load(file(t, text), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	sample := printed(t, datanode.Program, first)
	for _, want := range []string{
		`hostname = "data1"`, `max-body-size = "10m"`, `headers = { "X-A" = "1", "X-B" = "2" }`,
		`enqueued-write-timeout = "1m30s"`, `https-client-ca = { paths = ["/ca.pem"], include-system = true }`,
		`access-log-status-filters = ["404", "5XX"]`, `check-interval = "1h"`, `max-rate = 5`,
		`repair; 0 is no limit. Default: "48m".`,
	} {
		if !strings.Contains(sample, want) {
			t.Errorf("no %s in:\n%s", want, sample)
		}
	}
	again, err := datanode.Program.Load(file(t, sample), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample, printed(t, datanode.Program, again)); d != "" {
		t.Error(d)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	env := map[string]string{"INFLUXDB_HTTP_SHARED_SECRET": "hunter2"}
	c, err := datanode.Program.Load("", func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTPD.SharedSecret != "hunter2" {
		t.Fatal("the secret did not arrive")
	}
	sample := printed(t, datanode.Program, c)
	if strings.Contains(sample, "hunter2") || !strings.Contains(sample, "# shared-secret is set, and never printed") {
		t.Errorf("got:\n%s", sample)
	}
	m := metaconfig.New()
	m.Meta.InternalSharedSecret = "hunter2"
	if strings.Contains(printed(t, metaconfig.Program, m), "hunter2") {
		t.Error("the meta node prints its secret")
	}
}

func TestErrorsNameTheFileTheLineAndTheSetting(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[anti-entropy]\n\n\ncheck-interval = \"5 minutes\"":   `:4: [anti-entropy] check-interval: time: `,
		"[anti-entropy]\ncheck-interval = \"0s\"":              `:2: [anti-entropy] check-interval: must be positive`,
		"[anti-entropy]\nmax-sync = 2\nmax-fetch = 0":          `:3: [anti-entropy] max-fetch: must be at least 1, not 0`,
		"[anti-entropy]\nmax-sync = \"many\"":                  `:2: [anti-entropy] max-sync: incompatible types`,
		"\n[anti-entropy]\nchek-interval = \"5m\"":             `:3: [anti-entropy] chek-interval: unknown setting`,
		"\n[anti-entrpy]\ncheck-interval = \"5m\"":             `:2: anti-entrpy: unknown section`,
		"a = 1\n[meta]\nb = 2":                                 `:1: a: unknown setting; `,
		"hostnam = \"x\"":                                      `:1: hostnam: unknown setting`,
		"bind-address = \"8088\"":                              `:1: bind-address: address 8088`,
		"[meta]\ndir = \"\"":                                   `:2: [meta] dir: must be set`,
		"[data]\nindex-version = \"btree\"":                    `:2: [data] index-version: unrecognized index`,
		"[logging]\nlevel = \"loud\"":                          `:2: [logging] level: unrecognized level`,
		"[logging]\nformat = \"xml\"":                          `:2: [logging] format: "xml" is none of auto, logfmt, json`,
		"[monitor]\nstore-interval = \"0s\"":                   `:2: [monitor] store-interval: monitor store interval must be positive`,
		"[http]\nflux-enabled = true":                          `:2: [http] flux-enabled: Flux is not part`,
		"[data]\n# a comment\n\ndir = = 1":                     `:4: this is not TOML`,
		"[data]\ndir = \"\"\"x\nwal-dir = 4\"\"\"\nwaldir = 1": `:4: [data] waldir: unknown setting`,
	} {
		path := file(t, text)
		_, err := datanode.Program.Load(path, noEnvironment)
		if err == nil || !strings.HasPrefix(err.Error(), path+want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, path+want)
		}
	}
}

func TestEnvironmentWinsAndIsNamed(t *testing.T) {
	t.Parallel()
	path := file(t, "hostname = \"file\"\n[anti-entropy]\nmax-sync = 3\n")
	env := map[string]string{
		"INFLUXDB_HOSTNAME": "environment", "INFLUXDB_ANTI_ENTROPY_MAX_SYNC": "4",
		"INFLUXDB_CONTINUOUS_QUERIES_RUN_INTERVAL": "3s", "INFLUXDB_HTTP_ENQUEUED_WRITE_TIMEOUT": "7s",
		"INFLUXDB_LOGGING_LEVEL": "debug", "INFLUXDB_HINTED_HANDOFF_MAX_SIZE": "1g",
	}
	c, err := datanode.Program.Load(path, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.Hostname, c.AntiEntropy.MaxSync, c.ContinuousQuery.RunInterval, c.HTTPD.EnqueuedWriteTimeout,
		c.Logging.Level, c.HintedHandoff.MaxSize)
	if want := "environment4 3s 7s debug 1g"; strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got %s, want %s", got, want)
	}
	for variable, value := range map[string][2]string{
		"INFLUXDB_ANTI_ENTROPY_MAX_SYNC":       {"0", "must be at least 1"},
		"INFLUXDB_ANTI_ENTROPY_CHECK_INTERVAL": {"soon", `time: invalid duration "soon"`},
		"INFLUXDB_HTTP_ENQUEUED_WRITE_TIMEOUT": {"soon", `time: invalid duration "soon"`},
		"INFLUXDB_DATA_INDEX_VERSION":          {"btree", "unrecognized index"},
	} {
		_, err := datanode.Program.Load(path, func(k string) string {
			if k == variable {
				return value[0]
			}
			return ""
		})
		if err == nil || !strings.HasPrefix(err.Error(), variable+": "+value[1]) {
			t.Errorf("%s=%s: %v", variable, value[0], err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("hostname = \"x\"\n[anti-entropy]\nmax-sync = 1\n[[http]]\n[a.\"b c\"]\nd = 1")
	f.Fuzz(func(t *testing.T, text string) {
		path := file(t, text)
		c, err := datanode.Program.Load(path, noEnvironment)
		if err != nil {
			if !strings.HasPrefix(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		if _, err := datanode.Program.Load(file(t, printed(t, datanode.Program, c)), noEnvironment); err != nil &&
			c.HTTPD.SharedSecret == "" {
			t.Errorf("what loads is printed and does not load: %v", err)
		}
	})
}
