package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/cli"
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
		Use: "show", Short: "Show the members of the cluster", Args: args(),
		Example: "  influxd-ctl show\n  influxd-ctl -bind meta2:8091 show -json",
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
					strconv.FormatUint(n.ID, 10), n.TCPAddr, n.HTTPAddr, versionOf(n.Node), labelsOf(n.Node),
					strconv.FormatBool(n.Passive),
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
			table(w, "Raft Status", [][]string{{"Leader", status.Leader}, {"Peers", peersOf(status)}})
			printDraining(w, members.Data)
			printClocks(w, "data", members.Data)
			printClocks(w, "meta", members.Meta)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// peersOf is the list of the meta nodes besides the leader, as InfluxDB Enterprise prints it.
func peersOf(s wire.Status) string {
	var quoted []string
	for _, p := range s.Peers {
		if p != s.Leader {
			quoted = append(quoted, strconv.Quote(p))
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// printDraining names the data nodes that are being drained.
func printDraining(w io.Writer, nodes []wire.Member) {
	for _, n := range nodes {
		if n.Draining {
			fmt.Fprintf(w, "\nData node %d, %s, gets no new shards: it is being drained, see rebalance.\n",
				n.ID, n.TCPAddr)
		}
	}
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
		Example: "  influxd-ctl add-meta meta2:8091", Args: args("http-addr"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/add-meta", url.Values{"addr": args}, func(n wire.Removed) string {
				return fmt.Sprintf("Added meta node %d at %s", n.ID, args[0])
			})
		},
	}
}

func (c *client) removeMeta() *cobra.Command {
	var force, yes bool
	var tcp string
	cmd := &cobra.Command{
		Use: "remove-meta <http-addr>", Short: "Remove a meta node", Args: args("[http-addr]"),
		Example: "  influxd-ctl remove-meta meta2:8091\n" +
			"  influxd-ctl remove-meta -force -tcpAddr meta2:8089 meta2:8091    # it does not answer any more",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && tcp == "" {
				return missing(cmd, "http-addr")
			}
			params := url.Values{"addr": args, "force": {strconv.FormatBool(force)}}
			if len(args) == 0 { // the node is found by either address
				params.Set("addr", tcp)
			} else if tcp != "" {
				params.Set("tcp", tcp)
			}
			return c.change(cmd, "/remove-meta", params, func(n wire.Removed) string {
				if n.ID == 0 {
					return fmt.Sprintf("The meta node at %s was removed before. Now it knows, too", n.HTTPAddr)
				}
				return fmt.Sprintf("Removed meta node %d at %s", n.ID, n.HTTPAddr)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it also when it does not answer")
	cmd.Flags().StringVar(&tcp, "tcpAddr", "", "TCP address of the node, that of Raft")
	cmd.Flags().BoolVarP(&yes, "y", "y", false, "accepted; there is no question to answer")
	return cmd
}

func (c *client) addData() *cobra.Command {
	var passive bool
	cmd := &cobra.Command{
		Use: "add-data <tcp-addr>", Short: "Add a data node", Args: args("tcp-addr"),
		Example: "  influxd-ctl add-data data4:8088\n" +
			"  influxd-ctl add-data -p data5:8088    # a passive one: it coordinates, and owns no shards",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/add-data", dataParams(args[0], passive), addedData)
		},
	}
	cmd.Flags().BoolVarP(&passive, "p", "p", false, "a passive node, which owns no shards: see also activate-data")
	return cmd
}

// dataParams are the parameters of /add-data.
func dataParams(addr string, passive bool) url.Values {
	params := url.Values{"addr": {addr}}
	if passive {
		params.Set("passive", "true")
	}
	return params
}

// versionOf is the version of a data node, for people.
func versionOf(n wire.Node) string {
	if n.Awaited {
		return "awaited: influxd-ctl adopt"
	}
	return n.Version
}

// addedData says that a data node is added. One that was passive before stays so, also without -p.
func addedData(n wire.Removed) string {
	say := fmt.Sprintf("Added data node %d at %s", n.ID, n.TCPAddr)
	if n.Passive {
		say += ", which is passive"
	}
	return say
}

func (c *client) activateData() *cobra.Command {
	return &cobra.Command{
		Use: "activate-data <tcp-addr>", Short: "Let a passive data node own shards from now on",
		Long: "Let a passive data node own shards from now on. It gets shards of new shard groups, and those that " +
			"copy-shard " +
			"gives it.\nA node that owns no shards is made passive with add-data -p.",
		Example: "  influxd-ctl activate-data data5:8088", Args: args("tcp-addr"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/activate-data", url.Values{"addr": args}, func(n wire.Removed) string {
				return fmt.Sprintf("Data node %d at %s is active", n.ID, n.TCPAddr)
			})
		},
	}
}

func (c *client) removeData() *cobra.Command {
	var force, tcp bool
	cmd := &cobra.Command{
		Use: "remove-data <tcp-addr>", Short: "Remove a data node; empty it with rebalance -drain first",
		Example: "  influxd-ctl remove-data data4:8088\n" +
			"  influxd-ctl remove-data -force data4:8088    # it does not answer any more",
		Args: args("tcp-addr"),
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
	if n.Short > 0 {
		say += fmt.Sprintf("\nIts shards with fewer copies now than their policies ask for: %d. "+
			"influxd-ctl rebalance makes new ones", n.Short)
	}
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
		Example: "  influxd-ctl update-data data3:8088 data7:8088\n" +
			"  influxd-ctl update-data data3:8088 data3:8088    # the same machine with empty folders",
		Args: args("old-tcp-addr", "new-tcp-addr"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "/update-data", url.Values{"old": args[:1], "new": args[1:]},
				func(n wire.Removed) string {
					return fmt.Sprintf("Updated data node %d to %s", n.ID, n.TCPAddr)
				})
		},
	}
}

func (c *client) nodeLabels() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "node-labels",
		Short:   "Set and delete labels of nodes; copies of a shard go to nodes with different values of az",
		Example: `  influxd-ctl node-labels set -nodeid 4 -labels '{"az":"eu-1a"}'`,
	})
	for _, sub := range []struct{ use, short, usage, labels string }{
		{"set", "Set labels of a node", "JSON object of labels and values", `{"az":"eu-1a"}`},
		{"delete", "Delete labels of a node", "JSON list of labels", `["az"]`},
	} {
		var id, labels string
		s := &cobra.Command{
			Use: sub.use, Short: sub.short, Args: args(),
			Example: fmt.Sprintf("  influxd-ctl node-labels %s -nodeid 4 -labels '%s'", sub.use, sub.labels),
			RunE: func(cmd *cobra.Command, _ []string) error {
				for flag, value := range map[string]string{"-nodeid": id, "-labels": labels} {
					if value == "" {
						return fmt.Errorf("%s: %s is missing: it needs -nodeid and -labels", cli.Name(cmd), flag)
					}
				}
				return c.change(cmd, "/node-labels", url.Values{"node": {id}, sub.use: {labels}},
					func(n wire.Removed) string {
						return fmt.Sprintf("Labels of node %d: %s", n.ID, labelsOf(n.Node))
					})
			},
		}
		s.Flags().StringVar(&id, "nodeid", "", "id of the node, or an address of it")
		s.Flags().StringVar(&labels, "labels", "", sub.usage+", such as "+sub.labels)
		cmd.AddCommand(s)
	}
	return cmd
}
