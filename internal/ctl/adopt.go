package ctl

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"concord/internal/meta/wire"
)

func (c *client) adopt() *cobra.Command {
	var dryRun, merge, asJSON bool
	cmd := &cobra.Command{
		Use:   "adopt <tcp-addr>",
		Short: "Take a plain InfluxDB 1.x server into the cluster, with all that it has",
		Long: "Adopt takes the plain server into the cluster on whose folders a data node was started: its " +
			"databases,\n" +
			"policies, shards, users, continuous queries and subscriptions. No data is copied. The data node waits to be\n" +
			"adopted, and changes nothing before. With -merge, shards of databases that the cluster has already get the\n" +
			"data node as another owner, and anti-entropy gives each owner what it lacks.",
		Example: "  influxd-ctl adopt -dry-run data1:8088\n  influxd-ctl adopt data1:8088",
		Args:    args("tcp-addr"),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{
				"addr": args, "dry-run": {strconv.FormatBool(dryRun)}, "merge": {strconv.FormatBool(merge)},
			}
			var a wire.Adoption
			if err := c.slow().call(cmd.Context(), http.MethodPost, "/adopt", params, &a); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), a)
			}
			printAdoption(cmd.OutOrStdout(), args[0], a)
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&merge, "merge", false, "merge what the cluster has under the same names")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printAdoption(w io.Writer, addr string, a wire.Adoption) {
	if a.Already {
		fmt.Fprintf(w, "The server at %s is data node %d already\n", addr, a.Node.ID)
		return
	}
	if len(a.Policies) > 0 {
		rows := [][]string{{"Database", "Retention Policy", "Copies", "Shards", "Merged"}}
		for _, p := range a.Policies {
			rows = append(rows, []string{
				p.Database, p.Name, strconv.Itoa(p.Replicas), strconv.Itoa(p.Shards), strconv.Itoa(p.Merged),
			})
		}
		table(w, "What the server has", rows)
		fmt.Fprintln(w)
	}
	list := func(what string, names []string) {
		if len(names) > 0 {
			fmt.Fprintf(w, "%s: %s\n", what, strings.Join(names, ", "))
		}
	}
	list("Users", a.Users)
	list("Users that stay as the cluster has them", a.KeptUsers)
	list("Continuous queries", a.Queries)
	list("The cluster keeps its own", a.Kept)
	if len(a.Moves) > 0 {
		fmt.Fprintln(w, "Folders that get another name, as the cluster has their shard IDs already:")
		for _, m := range a.Moves {
			to := strconv.FormatUint(m.To, 10)
			if m.To == 0 {
				to = fmt.Sprintf("%d.aside: the server knows no such shard", m.From)
			}
			fmt.Fprintf(w, "  %s/%s/%d -> %s\n", m.Database, m.RetentionPolicy, m.From, to)
		}
	}
	if a.DryRun {
		fmt.Fprintf(w, "%s of shards would be adopted; nothing was changed\n", size(int64(a.Bytes)))
		return
	}
	fmt.Fprintf(w, "Adopted the server at %s as data node %d\n", addr, a.Node.ID)
	if len(a.Shared) > 0 {
		fmt.Fprintf(w, "%d shards have another owner now: influxd-ctl entropy show says which still differ\n",
			len(a.Shared))
	}
}
