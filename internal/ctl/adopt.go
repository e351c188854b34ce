package ctl

import (
	"errors"
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
	var old string
	cmd := &cobra.Command{
		Use:   "adopt <tcp-addr>",
		Short: "Take a plain InfluxDB 1.x server, or a whole influxdb-cluster, into the cluster",
		Long: "Adopt takes the plain server into the cluster on whose folders a data node was started: its " +
			"databases,\npolicies, shards, users, continuous queries and subscriptions. No data is copied. The data " +
			"node waits to be\nadopted, and changes nothing before. With -merge, shards of databases that the " +
			"cluster has already get the\ndata node as another owner, and anti-entropy gives each owner what it " +
			"lacks.\n\n" +
			"With -influxdb-cluster, a new cluster without data takes over the metadata of a running " +
			"influxdb-cluster, with\nthe IDs and shards of its data nodes. Then each data node is started on its " +
			"folders, and adopted by its address.",
		Example: "  influxd-ctl adopt -dry-run data1:8088\n  influxd-ctl adopt data1:8088\n" +
			"  influxd-ctl adopt -influxdb-cluster old-meta1:8091",
		Args: func(cmd *cobra.Command, given []string) error {
			if old == "" {
				return args("tcp-addr")(cmd, given)
			} else if len(given) > 0 || merge {
				return errors.New("influxd-ctl adopt: -influxdb-cluster takes no other address, and no -merge")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var a wire.Adoption
			if old != "" {
				a, err = c.adoptCluster(cmd.Context(), old, dryRun)
			} else {
				params := url.Values{
					"addr": args, "dry-run": {strconv.FormatBool(dryRun)}, "merge": {strconv.FormatBool(merge)},
				}
				err = c.slow().call(cmd.Context(), http.MethodPost, "/adopt", params, &a)
			}
			switch w := cmd.OutOrStdout(); {
			case err != nil:
				return err
			case asJSON:
				return printJSON(w, a)
			case old != "":
				printServer(w, a)
				printAwaited(w, a)
			default:
				printAdoption(w, args[0], a)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&merge, "merge", false, "merge what the cluster has under the same names")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&old, "influxdb-cluster", "",
		"HTTP address of the leading meta node of an influxdb-cluster whose metadata is taken over")
	return cmd
}

func printAdoption(w io.Writer, addr string, a wire.Adoption) {
	if a.Already {
		fmt.Fprintf(w, "The server at %s is data node %d already\n", addr, a.Node.ID)
		return
	}
	printServer(w, a)
	if a.DryRun {
		fmt.Fprintf(w, "%s of shards would be adopted; nothing was changed\n", size(int64(a.Bytes)))
		return
	}
	fmt.Fprintf(w, "Adopted the server at %s as data node %d\n", addr, a.Node.ID)
	if len(a.Shared) > 0 {
		fmt.Fprintf(w, "%d shards are to be compared with the copies of other owners: "+
			"influxd-ctl entropy show says which still differ\n", len(a.Shared))
	}
}

// printServer says what is adopted.
func printServer(w io.Writer, a wire.Adoption) {
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
	if len(a.Missing) > 0 {
		fmt.Fprintf(w, "Shards that are not on its disk: %v. Nothing was written to them, or they are lost\n",
			a.Missing)
	}
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
}
