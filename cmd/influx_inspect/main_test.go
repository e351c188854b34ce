package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestVersionNamesTheEngine(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-version", "--version", "version"} {
		var out bytes.Buffer
		if err := run([]string{flag}, &out); err != nil ||
			!strings.HasPrefix(out.String(), "influx_inspect of InfluxDB ") {
			t.Errorf("%s prints %q, %v", flag, out.String(), err)
		}
	}
}

func TestBadCommandsAreOneLine(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"bogus":  `unknown command "bogus": run influx_inspect help`,
		"-bogus": "unknown flag -bogus: run influx_inspect help",
	} {
		err := run(strings.Fields(args), &bytes.Buffer{})
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}
