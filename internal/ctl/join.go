package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"concord/internal/meta/wire"
)

// host is what runs on this machine: a meta node at -bind, a data node beside it.
type host struct {
	meta string // the meta node's own HTTP address; empty without one
	data string // TCP address where a data node would be
}

// look finds the meta node at -bind. A data node is on the same host, on 8088 unless data says where.
func (c *client) look(ctx context.Context, data string) (host, error) {
	var status struct {
		HTTPAddr string `json:"httpAddr"`
	}
	var h host
	name, err := os.Hostname()
	if err != nil {
		return h, fmt.Errorf("the name of this machine: %w", err)
	}
	if err := c.call(ctx, http.MethodGet, "/status", nil, &status); err == nil {
		h.meta = status.HTTPAddr
		if own, _, err := net.SplitHostPort(h.meta); err == nil {
			name = own
		}
	} else if !errors.Is(err, errNoMetaNode) {
		return h, err
	}
	if h.data = data; data == "" {
		h.data = net.JoinHostPort(name, "8088")
	}
	return h, nil
}

func (c *client) join() *cobra.Command {
	var verbose bool
	var data string
	cmd := &cobra.Command{
		Use: "join [meta:8091]", Short: "Join this machine's nodes to the cluster of a meta node, or begin one",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.joinNodes(cmd.Context(), cmd.OutOrStdout(), args, data, verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "v", "v", false, "also say what was not found")
	cmd.Flags().StringVar(&data, "data", "", "TCP address of this machine's data node, unless it is on 8088")
	return cmd
}

func (c *client) joinNodes(ctx context.Context, w io.Writer, args []string, data string, verbose bool) error {
	if err := c.configure(); err != nil {
		return err
	}
	target, done := c.bind, "Successfully created cluster"
	if len(args) == 1 {
		target, done = args[0], "Successfully joined cluster"
	}
	fmt.Fprintf(w, "Joining meta node at %s\n", target)
	h, err := c.look(ctx, data)
	if err != nil {
		return err
	}
	cluster := *c.slow()
	cluster.bind = target
	var added []string
	add := func(kind, path, addr string) error {
		fmt.Fprintf(w, "Searching for %s node on %s...\n", kind, addr)
		var n wire.Removed
		err := cluster.call(ctx, http.MethodPost, path, url.Values{"addr": {addr}}, &n)
		if err != nil && kind == "data" && strings.Contains(err.Error(), "is unreachable") {
			if verbose {
				fmt.Fprintf(w, "  %v\n", err)
			}
			return nil
		} else if err != nil {
			return err
		}
		added = append(added, fmt.Sprintf("  * Added %s node %d at %s", kind, n.ID, addr))
		return nil
	}
	if h.meta != "" {
		if err := add("meta", "/add-meta", h.meta); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "Searching for meta node on %s...\n", c.bind)
		if len(args) == 0 {
			return fmt.Errorf("no meta node answers at %s: start influxd-meta, or name a meta node of the cluster to join", c.bind)
		}
	}
	if err := add("data", "/add-data", h.data); err != nil {
		return err
	}
	if len(added) == 0 {
		return errors.New("no meta node and no data node runs on this machine: start one of them first")
	}
	fmt.Fprintln(w, done)
	fmt.Fprintln(w, strings.Join(added, "\n"))
	if len(args) == 0 {
		fmt.Fprintf(w, "\nTo join further machines to this cluster, run there:\n\n    influxd-ctl join %s\n", h.meta)
	}
	return nil
}

func (c *client) leave() *cobra.Command {
	var yes bool
	var data string
	cmd := &cobra.Command{
		Use: "leave", Short: "Remove this machine's nodes from their cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.leaveNodes(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), data, yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "y", "y", false, "do not ask")
	cmd.Flags().StringVar(&data, "data", "", "TCP address of this machine's data node, unless it is on 8088")
	return cmd
}

// step is the removal of a node.
type step struct{ kind, path, addr string }

// checkSteps asks whether each node could be removed, before any is: a data node that has gone cannot be brought back
// when it turns out that the meta node cannot go.
func (c *client) checkSteps(ctx context.Context, steps []step) error {
	var why []string
	for _, s := range steps {
		if err := c.slow().call(ctx, http.MethodGet, s.path, url.Values{"addr": {s.addr}}, nil); err != nil {
			why = append(why, err.Error())
		}
	}
	if len(why) > 0 {
		return fmt.Errorf("nothing was removed: %s", strings.Join(why, "; and "))
	}
	return nil
}

func (c *client) leaveNodes(ctx context.Context, in io.Reader, w io.Writer, data string, yes bool) error {
	h, err := c.look(ctx, data)
	if err != nil {
		return err
	}
	if h.meta == "" {
		return fmt.Errorf("no meta node answers at %s: use remove-data at another meta node", c.bind)
	}
	var members wire.Members
	if err := c.call(ctx, http.MethodGet, "/show-cluster", nil, &members); err != nil {
		return err
	}
	var steps []step
	for _, n := range members.Data {
		if n.TCPAddr == h.data {
			steps = append(steps, step{"data", "/remove-data", n.TCPAddr})
		}
	}
	for _, n := range members.Meta {
		if n.HTTPAddr == h.meta {
			steps = append(steps, step{"meta", "/remove-meta", n.HTTPAddr})
		}
	}
	if len(steps) == 0 {
		return errors.New("this machine's nodes are in no cluster")
	}
	if err := c.checkSteps(ctx, steps); err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Fprintf(w, "Removing %s node at %s\n", s.kind, s.addr)
	}
	if !yes {
		fmt.Fprint(w, "Do you want to go on? [y/N] ")
		answer, _ := bufio.NewReader(in).ReadString('\n')
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return errors.New("nothing was removed")
		}
	}
	for _, s := range steps {
		var n wire.Removed
		if err := c.slow().call(ctx, http.MethodPost, s.path, url.Values{"addr": {s.addr}}, &n); err != nil {
			return err
		}
		fmt.Fprintf(w, "Removed %s node %d at %s\n", s.kind, n.ID, s.addr)
	}
	fmt.Fprintln(w, "Successfully left cluster")
	return nil
}
