package ctl

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/meta/wire"
)

// shard is a shard with what its owners say of their copies, with -v or -m.
type shard struct {
	wire.Shard
	Copies []shardCopy `json:"copies,omitempty"`
}

// shardCopy is one owner's copy of a shard.
type shardCopy wire.Copy

// String is the copy in the owners' column of show-shards -v.
func (c shardCopy) String() string {
	problem := "nil"
	switch {
	case c.State == "unreachable":
		problem = "does not answer"
	case c.NotWhole != "":
		problem = "not whole" // why is below the table
	}
	return fmt.Sprintf("{ID:%d TCPAddr:%s State:%s LastModified:%s Size:%s Err:%s}",
		c.Node, c.TCPAddr, c.State, c.LastModified.UTC().Format(time.RFC3339Nano), size(c.Size), problem)
}

func (c *client) showShards() *cobra.Command {
	var asJSON, verbose, inconsistent, expired bool
	cmd := &cobra.Command{
		Use: "show-shards", Short: "Show all shards that have not expired, and their owners", Args: args(),
		Example: "  influxd-ctl show-shards\n  influxd-ctl show-shards -e    # also those that have expired\n" +
			"  influxd-ctl show-shards -m -v",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var shards []shard
			if err := c.call(cmd.Context(), http.MethodGet, "/show-shards", nil, &shards); err != nil {
				return err
			}
			if !expired {
				now := time.Now()
				shards = slices.DeleteFunc(shards, func(s shard) bool { return s.Expires != nil && s.Expires.Before(now) })
			}
			if verbose || inconsistent {
				copies := map[string][]shardCopy{}
				if err := c.slow().call(cmd.Context(), http.MethodGet, "/shard-copies", nil, &copies); err != nil {
					return err
				}
				for i := range shards {
					shards[i].Copies = copies[strconv.FormatUint(shards[i].ID, 10)]
				}
			}
			if inconsistent {
				shards = slices.DeleteFunc(shards, shard.complete)
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, shards)
			}
			table(w, "Shards", shardRows(shards, verbose))
			printNotWhole(w, shards)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&expired, "e", "e", false,
		"also shards that have expired, and are there until a node removes them")
	cmd.Flags().BoolVarP(&verbose, "v", "v", false, "with state, last modification and size of each copy")
	cmd.Flags().BoolVarP(&inconsistent, "m", "m", false,
		"only shards with fewer copies than desired, or an owner without its copy or without all of it")
	return cmd
}

// shardRows are the rows of show-shards, the first of them the names of the columns. With verbose, the last column says
// what each owner has.
func shardRows(shards []shard, verbose bool) [][]string {
	rows := [][]string{{
		"ID", "Database", "Retention Policy", "Desired Replicas", "Shard Group", "Start", "End", "Expires", "Owners",
	}}
	for _, s := range shards {
		end := stampOf(&s.End)
		if s.TruncatedAt != nil {
			end += "*"
		}
		owners := make([]string, len(s.Owners))
		for i, o := range s.Owners {
			owners[i] = fmt.Sprintf("{%d %s}", o.ID, o.TCPAddr)
		}
		if verbose {
			owners = owners[:0]
			for _, copied := range s.Copies {
				owners = append(owners, copied.String())
			}
		}
		rows = append(rows, []string{
			strconv.FormatUint(s.ID, 10), s.Database, s.RetentionPolicy, strconv.Itoa(s.ReplicaN),
			strconv.FormatUint(s.GroupID, 10), stampOf(&s.Start), end, stampOf(s.Expires),
			"[" + strings.Join(owners, " ") + "]",
		})
	}
	return rows
}

// stampOf is a time as JSON has it, and empty for none.
func stampOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// printNotWhole says below the table which copies may lack something, and why.
func printNotWhole(w io.Writer, shards []shard) {
	first := true
	for _, s := range shards {
		for _, c := range s.Copies {
			if c.NotWhole == "" {
				continue
			}
			if first {
				fmt.Fprintln(w)
				first = false
			}
			fmt.Fprintf(w, "Shard %d on %s is not whole: %s\n", s.ID, c.TCPAddr, c.NotWhole)
		}
	}
}

// complete reports whether as many owners as desired have all of the shard.
func (s shard) complete() bool {
	have := 0
	for _, c := range s.Copies {
		if (c.State == "hot" || c.State == "cold") && c.NotWhole == "" {
			have++
		}
	}
	return have >= s.ReplicaN && have == len(s.Owners)
}

func (c *client) truncateShards() *cobra.Command {
	var delay time.Duration
	cmd := &cobra.Command{
		Use: "truncate-shards", Short: "End the shards that are written to: later points go to new shards",
		Example: "  influxd-ctl truncate-shards\n  influxd-ctl truncate-shards -delay 3m", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.slow().call(cmd.Context(), http.MethodPost, "/truncate-shards",
				url.Values{"delay": {delay.String()}},
				nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Truncated shards.")
			return nil
		},
	}
	cmd.Flags().DurationVar(&delay, "delay", time.Minute, "when they end, from now")
	return cmd
}
