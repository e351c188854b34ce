package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// program is what the tests run as a process of its own: it has the commands show and show-shards, and begins with
// show when it is given none.
const program = "CONCORD_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(program) == "" {
		os.Exit(m.Run())
	}
	os.Exit(Run("prog", "show", os.Args[1:], func(root *cobra.Command) {
		for _, name := range []string{"show", "show-shards"} {
			root.AddCommand(&cobra.Command{Use: name, Short: name, Args: cobra.NoArgs,
				RunE: func(cmd *cobra.Command, _ []string) error {
					cmd.Println("it ran " + cmd.Name())
					return nil
				}})
		}
	}))
}

// Scripts see what went wrong by the exit code, and people by one line.
func TestWrongCommandsEndWithOneLineAndAnExitCode(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"":                 {0, "it ran show\n"},
		"show-shards":      {0, "it ran show-shards\n"},
		"-version":         {0, "Concord prog "},
		"version":          {0, "Concord prog "},
		"help show-shards": {0, "show-shards\n\nUsage:\n  prog show-shards [flags]\n"},
		"sho-shards":       {1, `prog: unknown command "sho-shards" for "prog": did you mean show-shards?` + "\n"},
		"bogus":            {1, `prog: unknown command "bogus" for "prog"` + "\n"},
		"help bogus":       {1, `prog: unknown command "bogus" for "prog"` + "\n"},
		"show -bogus":      {1, "prog: show: unknown flag: --bogus\n"},
		"show x":           {1, `prog: unknown command "x" for "prog show"` + "\n"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], strings.Fields(args)...)
		cmd.Env = append(os.Environ(), program+"=1")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want.code || !strings.HasPrefix(string(out), want.says) ||
			code != 0 && string(out) != want.says {
			t.Errorf("%q ends with %d, want %d:\n%s", args, code, want.code, out)
		}
	}
}
