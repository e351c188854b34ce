package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// plain is what a page says, without what formats it.
func plain(t *testing.T, path string) string {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`\fB`, "", `\fP`, "", `\-`, "-", `\&`, "", `\\`, `\`,
		"\n.PP\n", "\n", "\n.EX\n", "\n", "\n.EE\n", "\n").Replace(string(page))
	return strings.Join(strings.Fields(text), " ")
}

func TestPagesSayWhatTheHelpTextsSay(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := write(folder); err != nil {
		t.Fatal(err)
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		page := plain(t, filepath.Join(folder, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"))
		want := []string{cmd.UseLine(), cmd.Short, cmd.Long, cmd.Example}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { want = append(want, f.Usage) })
		if cmd.Example == "" && cmd.HasParent() {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for _, text := range want {
			if text = strings.Join(strings.Fields(text), " "); !strings.Contains(page, text) {
				t.Errorf("the page of %s lacks %q:\n%s", cmd.CommandPath(), text, page)
			}
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub)
			}
		}
	}
	for _, root := range programs() {
		walk(root)
	}
}

// A package that is built twice of the same commit has the same bytes.
func TestPagesAreOfTheDateThatIsGiven(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	folder := t.TempDir()
	if err := write(folder); err != nil {
		t.Fatal(err)
	}
	if page := plain(t, filepath.Join(folder, "influxd-ctl-show.1")); !strings.Contains(page, `"Jan 1970"`) {
		t.Errorf("the page has another date:\n%s", page)
	}
}
