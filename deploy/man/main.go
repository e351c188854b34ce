// Man writes the manual pages of influxd, influxd-meta and influxd-ctl, one for each command, into a folder. They are
// made of the commands themselves, as the help texts and the completions are.
//
//	go run ./deploy/man dist/man
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"concord/internal/cli"
	"concord/internal/ctl"
	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/metanode"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man <folder>")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write writes the pages of all programs. Their date is SOURCE_DATE_EPOCH, where that is set.
func write(folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	for _, root := range programs() {
		root.Long = root.Short + ". Flags may also begin with a single dash, as those of InfluxDB do."
		forPages(root)
		if err := doc.GenManTree(root, &doc.GenManHeader{Source: "Concord", Manual: "Concord"}, folder); err != nil {
			return err
		}
	}
	return nil
}

// programs are the commands of the programs.
func programs() []*cobra.Command {
	return []*cobra.Command{
		cli.NewRoot("influxd", func(root *cobra.Command) {
			root.Short = "Run a data node of a Concord cluster"
			root.AddCommand(append(datanode.Commands(), devcluster.Command())...)
		}),
		cli.NewRoot("influxd-meta", func(root *cobra.Command) {
			root.Short = "Run a meta node of a Concord cluster"
			root.AddCommand(metanode.Commands()...)
		}),
		cli.NewRoot("influxd-ctl", func(root *cobra.Command) {
			root.Short = "Administer a Concord cluster"
			ctl.Setup(root)
		}),
	}
}

// escape writes what Markdown would read as a tag, or as the begin of bold text.
var escape = strings.NewReplacer(`\`, `\\`, "<", `\<`, "*", `\*`, "_", `\_`).Replace

// forPages makes the texts of cmd and its subcommands Markdown, of which the pages are made.
func forPages(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	cmd.Use, cmd.Short, cmd.Long = escape(cmd.Use), escape(cmd.Short), paragraphs(cmd.Long)
	for _, flags := range []*pflag.FlagSet{cmd.PersistentFlags(), cmd.LocalNonPersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) { f.Usage = escape(f.Usage) })
	}
	for _, sub := range cmd.Commands() {
		forPages(sub)
	}
}

// paragraphs keeps the lines and columns of a paragraph that is a table.
func paragraphs(text string) string {
	all := strings.Split(text, "\n\n")
	for i, p := range all {
		if strings.Contains(p, "  ") {
			all[i] = "```\n" + p + "\n```"
		} else {
			all[i] = escape(p)
		}
	}
	return strings.Join(all, "\n\n")
}
