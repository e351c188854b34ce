package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/meta/wire"
)

// patient is a client for what takes as long as a shard is large.
func (c *client) patient() *client {
	s := *c
	if !c.global.Changed("timeout") {
		s.timeout = 7 * 24 * time.Hour
	}
	return &s
}

func (c *client) copyShard() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "copy-shard <src-tcp-addr> <dst-tcp-addr> <shard-id>",
		Short:   "Copy a shard to another data node, which becomes an owner",
		Example: "  influxd-ctl copy-shard data1:8088 data2:8088 22", Args: args("src-tcp-addr", "dst-tcp-addr", "shard-id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{
				"src": args[:1], "dest": args[1:2], "shard": args[2:], "force": {strconv.FormatBool(force)},
			}
			if err := c.patient().call(cmd.Context(), http.MethodPost, "/copy-shard", params, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Copied shard %s from %s to %s\n", args[2], args[0], args[1])
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "copy it also when the source may lack something")
	return cmd
}

func (c *client) killCopyShard() *cobra.Command {
	return &cobra.Command{
		Use:     "kill-copy-shard <src-tcp-addr> <dst-tcp-addr> <shard-id>",
		Short:   "Stop a running copy, and remove what was copied",
		Example: "  influxd-ctl kill-copy-shard data1:8088 data2:8088 22",
		Args:    args("src-tcp-addr", "dst-tcp-addr", "shard-id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{"src": args[:1], "dest": args[1:2], "shard": args[2:]}
			if err := c.slow().call(cmd.Context(), http.MethodPost, "/kill-copy-shard", params, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Killed shard copy %s from %s to %s\n", args[2], args[0], args[1])
			return nil
		},
	}
}

func (c *client) removeShard() *cobra.Command {
	return &cobra.Command{
		Use: "remove-shard <tcp-addr> <shard-id>", Short: "Drop a data node's copy of a shard",
		Example: "  influxd-ctl remove-shard data1:8088 22", Args: args("tcp-addr", "shard-id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{"node": args[:1], "shard": args[1:]}
			if err := c.slow().call(cmd.Context(), http.MethodPost, "/remove-shard", params, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Removed shard %s from %s\n", args[1], args[0])
			return nil
		},
	}
}

func (c *client) copyShardStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "copy-shard-status", Short: "Show the copies that are running", Args: args(),
		Example: "  influxd-ctl copy-shard-status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var copies []wire.CopyStatus
			if err := c.call(cmd.Context(), http.MethodGet, "/copy-shard-status", nil, &copies); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, copies)
			}
			rows := [][]string{{
				"Source", "Dest", "Database", "Policy", "ShardID", "TotalSize", "CurrentSize", "StartedAt",
			}}
			for _, s := range copies {
				rows = append(rows, []string{s.Source, s.Dest, s.Database, s.Policy, strconv.FormatUint(s.ShardID, 10),
					size(s.TotalSize), size(s.CurrentSize), s.StartedAt.String()})
			}
			untitled(w, rows) // as it is documented
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
