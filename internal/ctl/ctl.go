package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Setup adds the commands and global flags to influxd-ctl.
func Setup(root *cobra.Command) {
	c := &client{overTLS: &tlsTransport{}}
	c.flags(root)
	root.AddCommand(
		c.show(), c.showShards(), c.entropy(), c.top(),
		c.addData(), c.activateData(), c.removeData(), c.updateData(), c.adopt(),
		c.addMeta(), c.removeMeta(), c.join(), c.leave(),
		c.truncateShards(), c.rebalance(), c.copyShard(), c.copyShardStatus(), c.killCopyShard(), c.removeShard(),
		c.nodeLabels(), c.ldap(), c.token(), c.backup(), c.restore(), completion(),
	)
}

// table prints rows under a title as InfluxDB Enterprise does.
func table(w io.Writer, title string, rows [][]string) {
	fmt.Fprintln(w, title)
	fmt.Fprintln(w, "==========")
	untitled(w, rows)
}

// untitled prints rows, the first of which has the names of the columns.
func untitled(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		// The last cell ends the line: no padding behind it.
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
