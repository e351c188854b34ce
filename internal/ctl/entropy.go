package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/entropy/api"
)

func (c *client) entropy() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "entropy", Short: "Find and repair differences between the replicas of shards",
		Example: "  influxd-ctl entropy show\n  influxd-ctl entropy repair 21179",
	})
	cmd.AddCommand(c.entropyShow(),
		c.entropyRepair(), c.entropyKillRepair(),
		c.entropyCheck(), c.entropyDiff(), c.entropyResolve(), c.entropyRepairs(), c.entropyWatch(),
		c.entropyPause("pause", "Take no repairs, and stop those that run", "Repairs are paused"),
		c.entropyPause("resume", "Take repairs again", "Repairs go on"))
	return cmd
}

func (c *client) entropyShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show shards whose replicas differ, and the repair queue", Args: args(),
		Example: "  influxd-ctl entropy show",
		Long: "Show shards whose replicas differ, and the repair queue.\n\n" +
			"diff      the contents differ: repaired automatically, unless [anti-entropy] auto-repair-diff is false\n" +
			"missing   an owner has no copy, or lost what it had: the same, unless auto-repair-missing is false\n" +
			"conflict  an owner refuses points that another has: see entropy resolve\n" +
			"corrupt   a file of an owner is damaged: healed automatically from another owner",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s api.Status
			if err := c.call(cmd.Context(), http.MethodGet, api.Base+"/status", nil, &s); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, s)
			}
			rows := [][]string{{"ID", "Database", "Retention Policy", "Start", "End", "Expires", "Status"}}
			for _, sh := range s.Shards {
				rows = append(rows, []string{
					sh.ID, sh.Database, sh.RetentionPolicy, stamp(sh.Start), stamp(sh.End), expiry(sh.Expires),
					sh.Status,
				})
			}
			table(w, "Entropy", rows)
			said := false
			for _, sh := range s.Shards {
				if sh.Message == "" {
					continue
				}
				if !said {
					fmt.Fprintln(w)
				}
				said = true
				fmt.Fprintf(w, "Shard %s %s: %s\n", sh.ID, sh.Status, sh.Message)
			}
			fmt.Fprintf(w, "\nQueued Shards: %v\n", s.Queued)
			if len(s.Processing) > 0 {
				fmt.Fprintf(w, "Processing Shards: %v\n", s.Processing)
			}
			if len(s.Unreachable) > 0 {
				fmt.Fprintf(w, "Unreachable Nodes: %v\n", s.Unreachable)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// stamp writes nanoseconds since the epoch as Go prints a time.
func stamp(ns string) string {
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil {
		return ns
	}
	return time.Unix(0, n).UTC().String()
}

// expiry is stamp, and empty for never.
func expiry(ns string) string {
	if ns == "0" {
		return ""
	}
	return stamp(ns)
}

func (c *client) entropyRepair() *cobra.Command {
	return &cobra.Command{
		Use: "repair <shard-id>", Short: "Queue the repair of a shard", Args: args("shard-id"),
		Example: "  influxd-ctl entropy repair 22",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), http.MethodPost, api.Base+"/repair", url.Values{"id": args},
				nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Repair Shard %s queued\n", args[0])
			return nil
		},
	}
}

// entropyKillRepair asks for the queue first: the answer to a cancellation is the same when there is nothing to cancel.
func (c *client) entropyKillRepair() *cobra.Command {
	return &cobra.Command{
		Use: "kill-repair <shard-id>", Short: "Take a shard out of the queue, and stop its repair",
		Example: "  influxd-ctl entropy kill-repair 22", Args: args("shard-id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var before api.Status
			if err := c.call(cmd.Context(), http.MethodGet, api.Base+"/status", nil, &before); err != nil {
				return err
			}
			err := c.call(cmd.Context(), http.MethodPost, api.Base+"/cancel-repair", url.Values{"id": args}, nil)
			if err != nil {
				return err
			}
			done := "Repair Shard %s cancelled\n"
			if !slices.Contains(before.Queued, strings.TrimLeft(args[0], "0")) { // those that run are queued, too
				done = "No repair of Shard %s was queued or running\n"
			}
			fmt.Fprintf(cmd.OutOrStdout(), done, args[0])
			return nil
		},
	}
}
