package ctl_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v4"
	"github.com/spf13/cobra"

	"concord/internal/cli"
	"concord/internal/ctl"
)

// words splits a line as a shell does, without what follows a # or redirects the output.
func words(line string) (out []string) {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " > ")
	for _, w := range strings.Fields(line) {
		out = append(out, strings.Trim(w, "'"))
	}
	return out
}

// TestEachCommandHasAnExampleThatParses goes over all commands and subcommands.
func TestEachCommandHasAnExampleThatParses(t *testing.T) {
	t.Parallel()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if cmd.Example == "" && cmd.HasParent() {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			root := cli.NewRoot("influxd-ctl", ctl.Setup) // flags keep what an example sets
			given := words(line)
			if len(given) == 0 || given[0] != "influxd-ctl" {
				t.Errorf("%s: %q does not begin with influxd-ctl", cmd.CommandPath(), line)
				continue
			}
			found, rest, err := root.Find(cli.DoubleDash(given[1:]))
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			below := cmd.HasSubCommands() && strings.HasPrefix(found.CommandPath(), cmd.CommandPath()+" ")
			if err != nil || found.CommandPath() != cmd.CommandPath() && !below {
				t.Errorf("%s: %q is of %s: %v", cmd.CommandPath(), line, found.CommandPath(), err)
			}
		}
	}
	walk(cli.NewRoot("influxd-ctl", ctl.Setup))
}

func TestCompletionsAreOfAllCommands(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := run(t, "localhost:1", "completion", shell)
		if err != nil || !strings.Contains(out, "__complete") {
			t.Errorf("%s: %v\n%.200s", shell, err, out)
		}
	}
}

func TestMissingAndWrongCredentialsHaveTheDocumentedTexts(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"no"}`)
	}))
	t.Cleanup(srv.Close)
	for args, want := range map[string]string{
		"show": "Error: unable to parse authentication credentials.",
		"-auth-type basic -user u -pwd wrong show":   "Error: authorization failed.",
		"-auth-type jwt -secret wrong show":          "Error: authorization failed.",
		"-auth-type jwt -secret wrong entropy pause": "Error: authorization failed.",
	} {
		if _, err := run(t, srv.Listener.Addr().String(), strings.Fields(args)...); err == nil ||
			!strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestPassiveNodesAreAskedForAndShown(t *testing.T) {
	t.Parallel()
	const node = `{"id":4,"tcpAddr":"data1:8088","httpAddr":"data1:8086","version":"1.0","passive":true}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/add-data":
			if r.FormValue("passive") != "true" {
				t.Errorf("it asks for %s", r.URL)
			}
			fmt.Fprint(w, node)
		case "/show-cluster":
			fmt.Fprint(w, `{"data":[`+node+`],"meta":[]}`)
		case "/status":
			fmt.Fprint(w, `{"httpAddr":"meta1:8091"}`)
		default:
			fmt.Fprint(w, `{"id":1}`)
		}
	}))
	t.Cleanup(srv.Close)
	for args, want := range map[string]string{
		"add-data -p data1:8088":   "Added data node 4 at data1:8088, which is passive\n",
		"join -p -data data1:8088": "  * Added data node 4 at data1:8088, which is passive\n",
		"show":                     "data1:8088   data1:8086    1.0      {}      true\n",
	} {
		if out, err := run(t, srv.Listener.Addr().String(), strings.Fields(args)...); err != nil ||
			!strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}

func TestTokenNamesItsUser(t *testing.T) {
	t.Parallel()
	out, err := run(t, "localhost:1", strings.Fields("-auth-type jwt -secret s -user paul token")...)
	if err != nil {
		t.Fatal(err)
	}
	if name := usernameOf(t, out); name != "paul" {
		t.Errorf("the token is of %q", name)
	}
}

// usernameOf reads the user in a token.
func usernameOf(t *testing.T, token string) string {
	t.Helper()
	claims := jwt.MapClaims{}
	key := func(*jwt.Token) (any, error) { return []byte("s"), nil }
	if _, err := jwt.ParseWithClaims(strings.TrimSpace(token), claims, key); err != nil {
		t.Fatal(err)
	}
	name, _ := claims["username"].(string)
	return name
}
