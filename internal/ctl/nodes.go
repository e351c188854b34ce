package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/meta/wire"
)

// labelsOf prints the labels of a node as JSON.
func labelsOf(n wire.Node) string {
	if len(n.Labels) == 0 {
		return "{}"
	}
	b, _ := json.Marshal(n.Labels)
	return string(b)
}

func (c *client) show() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show the members of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var members wire.Members
			var status wire.Status
			if err := c.call(cmd.Context(), http.MethodGet, "/show-cluster", nil, &members); err != nil {
				return err
			}
			if err := c.call(cmd.Context(), http.MethodGet, "/status", nil, &status); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, map[string]any{
					"data": members.Data, "meta": members.Meta,
					"raft": map[string]any{"leader": status.Leader, "peers": status.Peers},
				})
			}
			rows := [][]string{{"ID", "TCP Address", "HTTP Address", "Version", "Labels", "Passive"}}
			for _, n := range members.Data {
				rows = append(rows, []string{
					strconv.FormatUint(n.ID, 10), n.TCPAddr, n.HTTPAddr, n.Version, labelsOf(n.Node), "false",
				})
			}
			table(w, "Data Nodes", rows)
			fmt.Fprintln(w)
			rows = [][]string{{"ID", "Raft Address", "HTTP Address", "Version", "Labels"}}
			for _, n := range members.Meta {
				rows = append(rows, []string{
					strconv.FormatUint(n.ID, 10), n.TCPAddr, n.HTTPAddr, n.Version, labelsOf(n.Node),
				})
			}
			table(w, "Meta Nodes", rows)
			fmt.Fprintln(w)
			table(w, "Raft Status", [][]string{{"Leader", "Peers"}, {status.Leader, fmt.Sprint(status.Peers)}})
			printClocks(w, "data", members.Data)
			printClocks(w, "meta", members.Meta)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printClocks names the nodes whose clocks are wrong.
func printClocks(w io.Writer, kind string, nodes []wire.Member) {
	for _, n := range nodes {
		if !n.ClockOff || n.ClockSkewMs == nil {
			continue
		}
		by, way := time.Duration(*n.ClockSkewMs)*time.Millisecond, "ahead of"
		if by < 0 {
			by, way = -by, "behind"
		}
		fmt.Fprintf(w, "\nThe clock of %s node %d, %s, is %s %s those of the other nodes: set it, with NTP for example.\n",
			kind, n.ID, n.TCPAddr, short(by), way)
	}
}

// change posts to the meta nodes and prints what came of it. Only the answer to the removal of a data node says that
// something is lost.
func (c *client) change(cmd *cobra.Command, path string, params url.Values, done func(wire.Removed) string) error {
	var n wire.Removed
	if err := c.slow().call(cmd.Context(), http.MethodPost, path, params, &n); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), done(n))
	return nil
}

func (c *client) addMeta() *cobra.Command {
	return &cobra.Command{
		Use: "add-meta <http-addr>", Short: "Add a meta node; the first one begins the cluster",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/add-meta", url.Values{"addr": args}, func(n wire.Removed) string {
				return fmt.Sprintf("Added meta node %d at %s", n.ID, args[0])
			})
		},
	}
}

func (c *client) removeMeta() *cobra.Command {
	var force, tcp, yes bool
	cmd := &cobra.Command{
		Use: "remove-meta <addr>", Short: "Remove a meta node", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{"addr": args, "force": {strconv.FormatBool(force)}}
			return c.change(cmd, "/remove-meta", params, func(n wire.Removed) string {
				return fmt.Sprintf("Removed meta node %d at %s", n.ID, n.HTTPAddr)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it also when it does not answer")
	cmd.Flags().BoolVar(&tcp, "tcpAddr", false, "the address is that of Raft; it is found either way")
	cmd.Flags().BoolVarP(&yes, "y", "y", false, "accepted; there is no question to answer")
	return cmd
}

func (c *client) addData() *cobra.Command {
	var passive bool
	cmd := &cobra.Command{
		Use: "add-data <tcp-addr>", Short: "Add a data node", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if passive {
				return errors.New("-p: passive data nodes are not supported")
			}
			return c.change(cmd, "/add-data", url.Values{"addr": args}, func(n wire.Removed) string {
				return fmt.Sprintf("Added data node %d at %s", n.ID, n.TCPAddr)
			})
		},
	}
	cmd.Flags().BoolVarP(&passive, "p", "p", false, "a passive node; not supported")
	return cmd
}

func (c *client) removeData() *cobra.Command {
	var force, tcp bool
	cmd := &cobra.Command{
		Use: "remove-data <tcp-addr>", Short: "Remove a data node; give its shards other owners with copy-shard first",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := url.Values{"addr": args, "force": {strconv.FormatBool(force)}}
			return c.change(cmd, "/remove-data", params, func(n wire.Removed) string {
				return removed(n)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false,
		"remove it also when it does not answer, or has what no other node has, which is lost then")
	cmd.Flags().BoolVar(&tcp, "tcpAddr", false, "the address is the TCP address; it always is")
	return cmd
}

// removed says that a data node is removed, and what the cluster lost with it.
func removed(n wire.Removed) string {
	say := fmt.Sprintf("Removed data node %d at %s", n.ID, n.TCPAddr)
	if len(n.Lost) == 0 {
		return say
	}
	return say + "\nThe cluster has lost:\n  " + strings.Join(n.Lost, "\n  ") +
		"\nTheir files are still on the disk of that node."
}

func (c *client) updateData() *cobra.Command {
	return &cobra.Command{
		Use:   "update-data <old-tcp-addr> <new-tcp-addr>",
		Short: "Say that a data node has another address, or that an empty node takes its place",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/update-data", url.Values{"old": args[:1], "new": args[1:]}, func(n wire.Removed) string {
				return fmt.Sprintf("Updated data node %d to %s", n.ID, n.TCPAddr)
			})
		},
	}
}

func (c *client) nodeLabels() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node-labels",
		Short: "Set and delete labels of nodes; copies of a shard go to nodes with different values of az",
	}
	for _, sub := range []struct{ use, short, key, example string }{
		{"set", "Set labels of a node", "set", `JSON object, such as {"az":"eu-1a"}`},
		{"delete", "Delete labels of a node", "delete", `JSON list, such as ["az"]`},
	} {
		var id, labels string
		s := &cobra.Command{
			Use: sub.use, Short: sub.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if id == "" || labels == "" {
					return errors.New("node-labels: give -nodeid and -labels")
				}
				return c.change(cmd, "/node-labels", url.Values{"node": {id}, sub.key: {labels}}, func(n wire.Removed) string {
					return fmt.Sprintf("Labels of node %d: %s", n.ID, labelsOf(n.Node))
				})
			},
		}
		s.Flags().StringVar(&id, "nodeid", "", "id of the node, or an address of it")
		s.Flags().StringVar(&labels, "labels", "", sub.example)
		cmd.AddCommand(s)
	}
	return cmd
}
