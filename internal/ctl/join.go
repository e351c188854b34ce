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
	var status wire.Status
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
	var f joinFlags
	cmd := &cobra.Command{
		Use: "join [meta-http-addr]", Short: "Join this machine's nodes to the cluster of a meta node, or begin one",
		Example: "  influxd-ctl join               # begin a cluster\n  influxd-ctl join meta1:8091    # join that of meta1\n" +
			"  influxd-ctl join -p meta1:8091 # with a passive data node",
		Args: args("[meta-http-addr]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.joinNodes(cmd.Context(), cmd.OutOrStdout(), args, f)
		},
	}
	cmd.Flags().BoolVarP(&f.verbose, "v", "v", false, "also say what was not found")
	cmd.Flags().BoolVarP(&f.passive, "p", "p", false, "the data node is a passive one, which owns no shards")
	cmd.Flags().StringVar(&f.data, "data", "", "TCP address of this machine's data node, unless it is on 8088")
	return cmd
}

// joinFlags are those of `join`.
type joinFlags struct {
	verbose, passive bool
	data             string // TCP address of the data node
}

func (c *client) joinNodes(ctx context.Context, w io.Writer, args []string, f joinFlags) error {
	if err := c.configure(); err != nil {
		return err
	}
	target, done := c.bind, "Successfully created cluster"
	if len(args) == 1 {
		target, done = args[0], "Successfully joined cluster"
	}
	fmt.Fprintf(w, "Joining meta node at %s\n", target)
	h, err := c.look(ctx, f.data)
	if err != nil {
		return err
	}
	cluster := *c.slow()
	cluster.bind = target
	var added []string
	add := func(kind, path string, params url.Values, say func(wire.Removed) string) error {
		fmt.Fprintf(w, "Searching for %s node on %s...\n", kind, params.Get("addr"))
		var n wire.Removed
		err := cluster.call(ctx, http.MethodPost, path, params, &n)
		if err == nil {
			added = append(added, "  * "+say(n))
		}
		return err
	}
	if h.meta != "" {
		params := url.Values{"addr": {h.meta}}
		if err := add("meta", "/add-meta", params, func(n wire.Removed) string {
			return fmt.Sprintf("Added meta node %d at %s", n.ID, h.meta)
		}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "Searching for meta node on %s...\n", c.bind)
		if len(args) == 0 {
			return fmt.Errorf("no meta node answers at %s: start influxd-meta, or name a meta node of the cluster to "+
				"join", c.bind)
		}
	}
	err = add("data", "/add-data", dataParams(h.data, f.passive), addedData)
	if err != nil && !strings.Contains(err.Error(), "is unreachable") {
		return err
	}
	if len(added) == 0 {
		return errors.New("no meta node and no data node runs on this machine: start one of them first")
	}
	if h.meta == "" {
		why := "  * No meta node added.  Run with -v to see more information"
		if f.verbose {
			why = fmt.Sprintf("  * No meta node added: none answers at %s", c.bind)
		}
		added = append([]string{why}, added...)
	}
	switch {
	case err != nil && f.verbose:
		added = append(added, fmt.Sprintf("  * No data node added: %v", err))
	case err != nil:
		added = append(added, "  * No data node added.  Run with -v to see more information")
	}
	fmt.Fprintf(w, "\n%s\n\n%s\n", done, strings.Join(added, "\n"))
	if len(args) == 0 {
		fmt.Fprintf(w, "\n  To join additional nodes to this cluster, run the following command:\n\n  influxd-ctl join %s\n",
			h.meta)
	}
	return nil
}

func (c *client) leave() *cobra.Command {
	var yes bool
	var data string
	cmd := &cobra.Command{
		Use: "leave", Short: "Remove this machine's nodes from their cluster", Args: args(),
		Long: "Remove this machine's nodes from their cluster, or none of them when one cannot go. Their files " +
			"stay on the disk.",
		Example: "  influxd-ctl leave\n  influxd-ctl leave -y    # do not ask",
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
	answers := bufio.NewReader(in) // of all questions
	return c.leaveAs(ctx, steps, w, func(question string) bool {
		if yes {
			return true
		}
		fmt.Fprintf(w, "%s [y/N]: ", question)
		answer, _ := answers.ReadString('\n')
		a := strings.ToLower(strings.TrimSpace(answer))
		return a == "y" || a == "yes"
	})
}

// leaveAs removes the nodes to whose removal agreed says yes. Its texts are those of InfluxDB Enterprise.
func (c *client) leaveAs(ctx context.Context, steps []step, w io.Writer, agreed func(question string) bool) error {
	var removed []string
	for _, s := range steps {
		fmt.Fprintf(w, "Searching for %s node on %s...\n", s.kind, s.addr)
		if !agreed(fmt.Sprintf("Remove %s node %s from the cluster", s.kind, s.addr)) {
			continue
		}
		if err := c.slow().call(ctx, http.MethodPost, s.path, url.Values{"addr": {s.addr}}, nil); err != nil {
			return err
		}
		if s.kind == "data" {
			fmt.Fprintf(w, "Removed %s from the cluster\n", s.addr)
		}
		removed = append(removed, fmt.Sprintf("  * Removed %s node %s from cluster", s.kind, s.addr))
	}
	if len(removed) == 0 {
		return errors.New("nothing was removed")
	}
	fmt.Fprintf(w, "\nSuccessfully left cluster\n\n%s\n", strings.Join(removed, "\n"))
	return nil
}
