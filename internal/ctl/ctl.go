package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Setup adds the commands and global flags to influxd-ctl.
func Setup(root *cobra.Command) {
	c := &client{}
	c.flags(root)
	root.AddCommand(c.show(), c.showShards(), c.addMeta(), c.addData(), c.removeData(), c.entropy())
}

// table prints rows under a title as InfluxDB Enterprise does.
func table(w io.Writer, title string, rows [][]string) {
	fmt.Fprintln(w, title)
	fmt.Fprintln(w, "==========")
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

// node is a member as the meta node tells it.
type node struct {
	ID       uint64 `json:"id"`
	TCPAddr  string `json:"tcpAddr"`
	HTTPAddr string `json:"httpAddr"`
	Version  string `json:"version"`
}

func (c *client) show() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show the members of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var members struct{ Data, Meta []node }
			var status struct {
				Leader string   `json:"leader"`
				Peers  []string `json:"peers"`
			}
			if err := c.call(cmd.Context(), http.MethodGet, "/show-cluster", nil, &members); err != nil {
				return err
			}
			if err := c.call(cmd.Context(), http.MethodGet, "/status", nil, &status); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, map[string]any{"data": members.Data, "meta": members.Meta, "raft": status})
			}
			rows := [][]string{{"ID", "TCP Address", "HTTP Address", "Version", "Labels", "Passive"}}
			for _, n := range members.Data {
				rows = append(rows, []string{strconv.FormatUint(n.ID, 10), n.TCPAddr, n.HTTPAddr, n.Version, "{}", "false"})
			}
			table(w, "Data Nodes", rows)
			fmt.Fprintln(w)
			rows = [][]string{{"ID", "Raft Address", "HTTP Address", "Version", "Labels"}}
			for _, n := range members.Meta {
				rows = append(rows, []string{strconv.FormatUint(n.ID, 10), n.TCPAddr, n.HTTPAddr, n.Version, "{}"})
			}
			table(w, "Meta Nodes", rows)
			fmt.Fprintln(w)
			table(w, "Raft Status", [][]string{{"Leader", "Peers"}, {status.Leader, fmt.Sprint(status.Peers)}})
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

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

func (c *client) addMeta() *cobra.Command {
	return &cobra.Command{
		Use: "add-meta <http-addr>", Short: "Make the meta node at -bind begin a cluster", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var n node
			if err := c.call(cmd.Context(), http.MethodPost, "/add-meta", url.Values{"addr": args}, &n); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Added meta node %d at %s\n", n.ID, args[0])
			return nil
		},
	}
}

func (c *client) addData() *cobra.Command {
	return &cobra.Command{
		Use: "add-data <tcp-addr>", Short: "Add a data node", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var n node
			if err := c.call(cmd.Context(), http.MethodPost, "/add-data", url.Values{"addr": args}, &n); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Added data node %d at %s\n", n.ID, n.TCPAddr)
			return nil
		},
	}
}

func (c *client) removeData() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove-data <tcp-addr>", Short: "Remove a data node and its ownerships", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var n node
			params := url.Values{"addr": args, "force": {strconv.FormatBool(force)}}
			if err := c.call(cmd.Context(), http.MethodPost, "/remove-data", params, &n); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Removed data node %d at %s\n", n.ID, n.TCPAddr)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it also when it does not answer")
	return cmd
}

// entropyStatus is the answer of GET /shard-repair/status.
type entropyStatus struct {
	Shards []struct {
		ID              string `json:"id"`
		Database        string `json:"database"`
		RetentionPolicy string `json:"retention_policy"`
		Start           string `json:"start_time"`
		End             string `json:"end_time"`
		Expires         string `json:"expires"`
		Status          string `json:"status"`
	} `json:"shards"`
	Queued      []string `json:"queued_shards"`
	Processing  []string `json:"processing_shards"`
	Unreachable []string `json:"unreachable_nodes,omitempty"`
}

func (c *client) entropy() *cobra.Command {
	cmd := &cobra.Command{Use: "entropy", Short: "Find and repair differences between the replicas of shards"}
	cmd.AddCommand(c.entropyShow(),
		c.entropyQueue("repair", "/shard-repair/repair", "Queue the repair of a shard", "Repair Shard %s queued\n"),
		c.entropyQueue("kill-repair", "/shard-repair/cancel-repair", "Take a shard from the queue and stop its repair", "Repair Shard %s cancelled\n"))
	return cmd
}

func (c *client) entropyShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show shards whose replicas differ, and the repair queue", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s entropyStatus
			if err := c.call(cmd.Context(), http.MethodGet, "/shard-repair/status", nil, &s); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, s)
			}
			rows := [][]string{{"ID", "Database", "Retention Policy", "Start", "End", "Expires", "Status"}}
			for _, sh := range s.Shards {
				rows = append(rows, []string{sh.ID, sh.Database, sh.RetentionPolicy, stamp(sh.Start), stamp(sh.End), expiry(sh.Expires), sh.Status})
			}
			table(w, "Entropy", rows)
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

func (c *client) entropyQueue(use, path, short, done string) *cobra.Command {
	return &cobra.Command{
		Use: use + " <shard-id>", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), http.MethodPost, path, url.Values{"id": args}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), done, args[0])
			return nil
		},
	}
}
