package ctl

import (
	"context"
	"fmt"
	"io"
	"maps"
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
	case c.Unlisted:
		problem = "not in the metadata"
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
			err := c.call(cmd.Context(), http.MethodGet, "/show-shards", nil, &shards)
			if err != nil {
				return err
			}
			if verbose || inconsistent {
				if shards, err = c.withCopies(cmd.Context(), shards, inconsistent); err != nil {
					return err
				}
			}
			if !expired {
				now := time.Now()
				shards = slices.DeleteFunc(shards, func(s shard) bool { return s.Expires != nil && s.Expires.Before(now) })
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, shards)
			}
			table(w, "Shards", shardRows(shards, verbose))
			printProblems(w, shards)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&expired, "e", "e", false,
		"also shards that have expired, and are there until a node removes them")
	cmd.Flags().BoolVarP(&verbose, "v", "v", false, "with state, last modification and size of each copy")
	cmd.Flags().BoolVarP(&inconsistent, "m", "m", false,
		"only shards with fewer copies than desired, or an owner without its copy or without all of it, "+
			"and copies on disk that are not in the metadata")
	return cmd
}

// withCopies adds to shards what data nodes say of their copies. With inconsistent, only shards stay whose copies and
// metadata do not agree, and those join them that are on disk alone.
func (c *client) withCopies(ctx context.Context, shards []shard, inconsistent bool) ([]shard, error) {
	params := url.Values{}
	if inconsistent {
		params.Set("unlisted", "true")
	}
	copies := map[uint64][]shardCopy{}
	if err := c.slow().call(ctx, http.MethodGet, "/shard-copies", params, &copies); err != nil {
		return nil, err
	}
	for i := range shards {
		shards[i].Copies = copies[shards[i].ID]
		delete(copies, shards[i].ID)
	}
	if !inconsistent {
		return shards, nil
	}
	for _, id := range slices.Sorted(maps.Keys(copies)) {
		if found := copies[id]; len(found) > 0 && found[0].Unlisted {
			shards = append(shards, shard{Copies: found, Shard: wire.Shard{
				ID: id, Database: found[0].Database, RetentionPolicy: found[0].RetentionPolicy, Owners: []wire.Owner{},
			}})
		}
	}
	return slices.DeleteFunc(shards, shard.complete), nil
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
		replicas, group, start := strconv.Itoa(s.ReplicaN), strconv.FormatUint(s.GroupID, 10), stampOf(&s.Start)
		if !s.known() {
			replicas, group, start, end = "", "", "", ""
		}
		rows = append(rows, []string{
			strconv.FormatUint(s.ID, 10), s.Database, s.RetentionPolicy, replicas, group, start, end,
			stampOf(s.Expires),
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

// printProblems says below the table which copies may lack something, and why, and which are not in the metadata.
func printProblems(w io.Writer, shards []shard) {
	var lines []string
	for _, s := range shards {
		for _, c := range s.Copies {
			switch {
			case c.Unlisted:
				lines = append(lines,
					fmt.Sprintf("Shard %d of %s.%s is on the disk of %s, with %s, and not in the metadata",
						s.ID, c.Database, c.RetentionPolicy, c.TCPAddr, size(c.Size)))
			case c.NotWhole != "":
				lines = append(lines, fmt.Sprintf("Shard %d on %s is not whole: %s", s.ID, c.TCPAddr, c.NotWhole))
			}
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(lines, "\n"))
	}
}

// known reports whether the metadata has the shard.
func (s shard) known() bool { return s.GroupID != 0 }

// complete reports whether as many owners as desired have all of the shard, and no other node has a copy.
func (s shard) complete() bool {
	have := 0
	for _, c := range s.Copies {
		if c.Unlisted {
			return false
		}
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
