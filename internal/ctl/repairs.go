package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/entropy/api"
)

func (c *client) entropyCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check [shard-id]", Short: "Compare the replicas of a shard, or of all shards, now", Args: args("[shard-id]"),
		Example: "  influxd-ctl entropy check\n  influxd-ctl entropy check 22",
		RunE: func(cmd *cobra.Command, args []string) error {
			params, what := url.Values{}, "all shards"
			if len(args) == 1 {
				params.Set("id", args[0])
				what = "shard " + args[0]
			}
			if err := c.call(cmd.Context(), http.MethodPost, api.Base+"/check", params, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Checking %s: see entropy show\n", what)
			return nil
		},
	}
}

func (c *client) entropyPause(use, short, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args(), Example: "  influxd-ctl entropy " + use,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.call(cmd.Context(), http.MethodPost, api.Base+"/"+use, nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), done)
			return nil
		},
	}
}

func (c *client) fetchRepairs(ctx context.Context) (r api.Repairs, err error) {
	err = c.call(ctx, http.MethodGet, api.Base+"/repairs", nil, &r)
	return r, err
}

func (c *client) entropyRepairs() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "repairs", Short: "Show running, waiting and ended repairs", Args: args(),
		Example: "  influxd-ctl entropy repairs",
		Long: "Show running, waiting and ended repairs.\n\n" +
			"Repair ID names a repair: its lines in the log of the node that drives it have it as repair_id.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := c.fetchRepairs(cmd.Context())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, all)
			}
			rows := [][]string{{
				"Shard", "Repair ID", "Database", "Retention Policy", "State", "Node", "Started", "Took", "Progress",
				"Points",
				"Conflicts", "Received", "Sent", "Error",
			}}
			for _, r := range all.Repairs {
				rows = append(rows, []string{r.ID, r.RepairID, r.Database, r.RetentionPolicy, r.State, r.Node,
					expiry(r.Started), took(r), fmt.Sprintf("%.0f%%", 100*r.Progress),
					strconv.Itoa(r.Points), strconv.Itoa(r.Conflicts), size(r.BytesReceived), size(r.BytesSent),
					r.Error})
			}
			table(w, "Repairs", rows)
			decided(w, all)
			refused(w, all)
			notes(w, all)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// decided lists points that owners held with different values.
func decided(w io.Writer, all api.Repairs) {
	var list []conflict
	for _, r := range all.Repairs {
		for _, d := range r.Decided {
			list = append(list, conflict{"Shard " + r.ID + ": ", d, d.Value})
		}
	}
	printConflicts(w, "Conflicts Decided", list)
}

// conflict is a point of which owners held different values.
type conflict struct {
	where string // before the point
	api.Decided
	result string // its value now, or after a repair
}

// printConflicts prints a line for each point, with one for each owner below it: as one table they would be too wide.
func printConflicts(w io.Writer, title string, list []conflict) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n==========\n", title)
	for _, c := range list {
		fmt.Fprintf(w, "%s%s %s %s is %s: %s\n", c.where, c.Series, c.Field, stamp(c.Time), c.result, c.Reason)
		held := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, h := range c.Held { // none from a node of an earlier build
			version := h.Version
			switch {
			case version != "":
			case h.NotAfter != "":
				version = "version not known, not after " + h.NotAfter
			default:
				version = "version not known"
			}
			fmt.Fprintf(held, "    %s\t%s\t%s\n", h.Node, h.Value, version)
		}
		held.Flush()
	}
}

// refused lists what owners refuse of each other's points.
func refused(w io.Writer, all api.Repairs) {
	rows := [][]string{{"Shard", "Node", "Series", "Field", "Reason"}}
	more := 0
	for _, r := range all.Repairs {
		for _, f := range r.Refusals {
			rows = append(rows, []string{r.ID, f.Node, f.Series, f.Field, f.Reason})
		}
		more += max(r.Refused-len(r.Refusals), 0)
	}
	if len(rows) == 1 {
		return
	}
	fmt.Fprintln(w)
	table(w, "Points Refused", rows)
	if more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
}

func notes(w io.Writer, all api.Repairs) {
	if len(all.Paused) > 0 {
		fmt.Fprintf(w, "\nPaused Nodes: %v\n", all.Paused)
	}
	if len(all.Unreachable) > 0 {
		fmt.Fprintf(w, "\nUnreachable Nodes: %v\n", all.Unreachable)
	}
}

func took(r api.Repair) string {
	start, err := strconv.ParseInt(r.Started, 10, 64)
	end, err2 := strconv.ParseInt(r.Ended, 10, 64)
	if err != nil || err2 != nil || start == 0 || end == 0 {
		return ""
	}
	return short(time.Duration(end - start)).String()
}

// size writes bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1023.95 && u < len(units)-1 { // it would be rounded to 1024.0
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

func (c *client) entropyWatch() *cobra.Command {
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "watch", Short: "Watch the repairs until none waits or runs", Args: args(),
		Example: "  influxd-ctl entropy watch -interval 5s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval <= 0 {
				return errors.New("-interval: must be above 0")
			}
			w := cmd.OutOrStdout()
			f, ok := w.(*os.File)
			return c.watch(cmd.Context(), w, interval, ok && isTerminal(f))
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks")
	return cmd
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// watch draws bars over each other on a terminal, and elsewhere prints a line for each change.
func (c *client) watch(ctx context.Context, w io.Writer, interval time.Duration, terminal bool) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	drawn, last := 0, map[string]string{}
	for {
		all, err := c.fetchRepairs(ctx)
		if err != nil {
			return err
		}
		open := false
		var lines []string
		for _, r := range all.Repairs {
			if isOpen(r) {
				open = true
				lines = append(lines, bar(r))
			}
		}
		if terminal {
			if drawn > 0 {
				fmt.Fprintf(w, "\x1b[%dA\x1b[J", drawn)
			}
			if len(lines) > 0 {
				fmt.Fprintln(w, strings.Join(lines, "\n"))
			}
			drawn = len(lines)
		}
		for _, r := range all.Repairs {
			if now := line(r); !terminal && last[repairKey(r)] != now {
				last[repairKey(r)] = now
				fmt.Fprintln(w, now)
			}
		}
		if !open {
			fmt.Fprintln(w, "No repair waits or runs.")
			notes(w, all)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func isOpen(r api.Repair) bool { return r.Ended == "0" }

func repairKey(r api.Repair) string { return r.Node + " " + r.ID + " " + r.Added }

const barWidth = 30

// bar is a repair on a terminal.
func bar(r api.Repair) string {
	full := min(int(r.Progress*barWidth), barWidth)
	line := fmt.Sprintf("shard %-8s %-8s [%s%s] %3.0f%%  %9d points  %8s/s", r.ID, r.State, strings.Repeat("#", full),
		strings.Repeat(".", barWidth-full), 100*r.Progress, r.Points, size(int64(r.Rate)))
	if r.ETA > 0 {
		line += "  " + time.Duration(r.ETA*float64(time.Second)).Round(time.Second).String() + " left"
	}
	if r.Error != "" {
		line += "  " + r.Error
	}
	return line
}

// line is a repair where there is no terminal.
func line(r api.Repair) string {
	line := fmt.Sprintf("shard %s %s on %s: %.0f%%, %d points, %s received, %s sent", r.ID, r.State, r.Node,
		100*r.Progress, r.Points, size(r.BytesReceived), size(r.BytesSent))
	if r.Error != "" {
		line += ": " + r.Error
	}
	return line
}

func (c *client) entropyDiff() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "diff <shard-id>", Short: "Show what a repair of a shard would find and send, and change nothing",
		Args:    args("shard-id"),
		Example: "  influxd-ctl entropy diff 22",
		RunE: func(cmd *cobra.Command, args []string) error {
			var d api.Diff
			if err := c.patient().call(cmd.Context(), http.MethodGet, api.Base+"/diff", url.Values{"id": args},
				&d); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, d)
			}
			printDiff(w, d)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printDiff(w io.Writer, d api.Diff) {
	rows := [][]string{{"Owner A", "Owner B", "Missing on A", "Missing on B", "Conflicts"}}
	for _, p := range d.Pairs {
		rows = append(rows, []string{p.A, p.B, strconv.Itoa(p.MissingA), strconv.Itoa(p.MissingB),
			strconv.Itoa(p.Conflicts)})
	}
	table(w, "Points of Shard "+d.ID, rows)
	if d.Count > 0 {
		fmt.Fprintln(w)
		rows = [][]string{{"Series", "Field", "Start", "End"}}
		for _, f := range d.Series {
			rows = append(rows, []string{f.Series, f.Field, stamp(f.Start), stamp(f.End)})
		}
		table(w, "Differing Series", rows)
		if more := d.Count - len(d.Series); more > 0 {
			fmt.Fprintf(w, "and %d more\n", more)
		}
	}
	var list []conflict
	for _, p := range d.Decided {
		result := p.Value + " after a repair"
		if p.Undecided {
			result = "undecided"
		}
		list = append(list, conflict{"", p, result})
	}
	printConflicts(w, "Conflicts", list)
	fmt.Fprintf(w, "\nA repair would send %s.\n", size(d.Bytes))
	for _, note := range []struct{ say, what string }{{"Not to be repaired: ", d.Conflict},
		{"Not compared: ", d.Away}} {
		if note.what != "" {
			fmt.Fprintln(w, note.say+note.what)
		}
	}
	if d.Truncated {
		fmt.Fprintln(w, "There is more: these numbers are of a part.")
	}
}
