// Package config loads and prints the configuration of the data and the meta node: a struct with defaults, over it a
// TOML file, over that the environment.
//
// A setting is a field with a `toml` tag. Its comment in the printed sample is the `doc` tag: one sentence of meaning
// and unit. The engine's structs have no such tags, so a program gives the comments of their fields as Docs. A field
// that is a struct is a section. To add a setting or a section, add the field: loading, printing and the environment
// follow from it.
package config

import (
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// Settings is a pointer to a struct of settings, which embeds Notes. Validate returns the first bad
// one as "[section] key: reason"; the loader adds where it was set.
type Settings interface {
	Validate() error
	Noted() *Notes
}

// Program is how one command gets its configuration.
type Program[C Settings] struct {
	Name         string   // of the command
	Title        string   // of the printed sample
	Files        []string // the first that exists is read when no path is given; ~ is the home of the user
	PathVariable string   // environment variable with the path
	New          func() C // the defaults, a fresh value each time
	Docs         Texts    // comments of settings whose fields have no doc tag
	Show         Texts    // what the sample shows for such settings when they have no value
	Foreign      Foreign  // what files of other servers have
}

// Path is the file to read: the given one, that of the environment, or the first of Files
// that exists. It is empty when there is none.
func (p Program[C]) Path(given string, getenv func(string) string) string {
	if given != "" {
		return given
	}
	if path := getenv(p.PathVariable); path != "" {
		return path
	}
	for _, path := range p.Files {
		if rest, ok := strings.CutPrefix(path, "~"); ok {
			home := getenv("HOME")
			if home == "" {
				continue
			}
			path = home + rest
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Load reads the file at path over the defaults, then the environment. An
// empty path means defaults and environment alone. An error names the file,
// the line and the setting, or the environment variable.
func (p Program[C]) Load(path string, getenv func(string) string) (C, error) {
	c, err := p.load(path, getenv)
	if err != nil {
		var none C
		return none, err
	}
	return c, nil
}

// Print writes all settings of c as commented TOML that Load reads back.
// Secrets are left out.
func (p Program[C]) Print(w io.Writer, c C) error {
	return p.printSample(w, reflect.ValueOf(c).Elem(), reflect.ValueOf(p.New()).Elem())
}

// Commands are `run` and `config`. run may load again, when it is told to reload.
func (p Program[C]) Commands(
	short string, run func(cmd *cobra.Command, load func() (C, error)) error,
) []*cobra.Command {
	var path string
	cmds := []*cobra.Command{{
		Use:     "run",
		Short:   short,
		Example: fmt.Sprintf("  %s run -config %s", p.Name, p.Files[len(p.Files)-1]),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, func() (C, error) { return p.Load(p.Path(path, os.Getenv), os.Getenv) })
		},
	}, {
		Use:     "config",
		Short:   "Print all settings with comments, as the file of -config and the environment set them",
		Example: fmt.Sprintf("  %[1]s config\n  %[1]s config -config old.conf > new.conf", p.Name),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Load(path, os.Getenv)
			if err != nil {
				return err
			}
			for _, note := range *c.Noted() {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			return p.Print(cmd.OutOrStdout(), c)
		},
	}}
	for _, c := range cmds {
		c.Flags().StringVar(&path, "config", "", "path of the configuration file")
	}
	return cmds
}

// Logging is the section [logging] of all programs. It has the fields of the engine's logger.Config, to which it
// converts: a program that only reads a configuration does not link that logger, and the tracing that it brings.
type Logging struct {
	Format       string          `toml:"format" doc:"Format of the log: logfmt, json, or auto, which is logfmt unless standard error is a terminal."`
	Level        zap.AtomicLevel `toml:"level" doc:"Lowest level that is logged: debug, info, warn or error."`
	SuppressLogo bool            `toml:"suppress-logo" doc:"Accepted, and without effect: no logo is printed."`
}

// NewLogging returns the defaults.
func NewLogging() Logging { return Logging{Format: "auto", Level: zap.NewAtomicLevel()} }

// Validate returns what is wrong with the section.
func (l Logging) Validate() error {
	switch l.Format {
	case "", "auto", "logfmt", "json":
		return nil
	}
	return fmt.Errorf("format: %q is none of auto, logfmt, json", l.Format)
}

// Advertised is the host:port that others use for a listener bound to bind: an
// unspecified host becomes hostname, or the machine's name when that is empty.
func Advertised(hostname, bind string, actual net.Addr) string {
	host, port, _ := net.SplitHostPort(bind)
	if _, p, err := net.SplitHostPort(actual.String()); err == nil {
		port = p // also for port 0 and for service names
	}
	if hostname != "" {
		host = hostname
	} else if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		if name, err := os.Hostname(); err == nil {
			host = name
		} else {
			host = "localhost"
		}
	}
	return net.JoinHostPort(host, port)
}
