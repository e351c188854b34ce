package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// shard is a shard as the meta node tells it.
type shard struct {
	ID              uint64 `json:"id"`
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention-policy"`
	ReplicaN        int    `json:"replica-n"`
	GroupID         uint64 `json:"shard-group-id"`
	Start           string `json:"start-time"`
	End             string `json:"end-time"`
	Expires         string `json:"expire-time"`
	TruncatedAt     string `json:"truncated-at"`
	Owners          []struct {
		ID      uint64 `json:"id"`
		TCPAddr string `json:"tcpAddr"`
	} `json:"owners"`
}

func (c *client) showShards() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show-shards", Short: "Show all shards and their owners", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var shards []shard
			if err := c.call(cmd.Context(), http.MethodGet, "/show-shards", nil, &shards); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, shards)
			}
			rows := [][]string{{"ID", "Database", "Retention Policy", "Desired Replicas", "Shard Group", "Start", "End", "Expires", "Owners"}}
			for _, s := range shards {
				end := s.End
				if s.TruncatedAt != "" {
					end += "*"
				}
				owners := make([]string, len(s.Owners))
				for i, o := range s.Owners {
					owners[i] = fmt.Sprintf("{%d %s}", o.ID, o.TCPAddr)
				}
				rows = append(rows, []string{strconv.FormatUint(s.ID, 10), s.Database, s.RetentionPolicy, strconv.Itoa(s.ReplicaN), strconv.FormatUint(s.GroupID, 10),
					s.Start, end, s.Expires, "[" + strings.Join(owners, " ") + "]"})
			}
			table(w, "Shards", rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (c *client) truncateShards() *cobra.Command {
	var delay time.Duration
	cmd := &cobra.Command{
		Use: "truncate-shards", Short: "End the hot shards: later points go to new ones", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.slow().call(cmd.Context(), http.MethodPost, "/truncate-shards", url.Values{"delay": {delay.String()}}, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Truncated shards.")
			return nil
		},
	}
	cmd.Flags().DurationVar(&delay, "delay", time.Minute, "how long from now")
	return cmd
}
