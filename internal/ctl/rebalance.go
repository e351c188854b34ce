package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"concord/internal/cli"
	"concord/internal/meta/wire"
)

// rebalanceFlags are the flags of rebalance.
type rebalanceFlags struct {
	dryRun, asJSON bool
	drain, undrain string // TCP addresses of data nodes
	maxRate        string // bytes a second, as in a configuration file
}

func (c *client) rebalance() *cobra.Command {
	var f rebalanceFlags
	cmd := &cobra.Command{
		Use: "rebalance", Args: args(),
		Short: "Give each policy its number of copies, spread bytes over nodes and zones, and empty nodes",
		Long: "Make a plan, and carry it out: give each policy its number of copies, spread bytes over nodes and\n" +
			"zones, and empty nodes that are drained. As few bytes as possible are copied. A shard never has fewer\n" +
			"copies than before, unless it has more than its policy asks for: a new copy is made and found whole,\n" +
			"then an old one is removed. Anti-entropy must be enabled.\n\n" +
			"Whatever was stopped or killed, run the command again: it looks at the cluster, and goes on from there.",
		Example: "  influxd-ctl rebalance -dry-run\n  influxd-ctl rebalance -max-rate 20m\n" +
			"  influxd-ctl rebalance -drain data4:8088      # before remove-data\n" +
			"  influxd-ctl rebalance -undrain data4:8088    # it stays, and gets shards again",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.undrain != "" && (f.drain != "" || f.dryRun):
				return errors.New("-undrain: give it alone")
			case f.undrain != "":
				return c.change(cmd, "/undrain-data", url.Values{"addr": {f.undrain}}, func(n wire.Removed) string {
					return fmt.Sprintf("Data node %d at %s gets shards again: see rebalance", n.ID, n.TCPAddr)
				})
			case f.dryRun:
				return c.planRebalance(cmd, f)
			}
			return c.runRebalance(cmd, f)
		},
	}
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan, and change nothing")
	cmd.Flags().StringVar(&f.drain, "drain", "",
		"TCP address of a data node that gets no more shards, and is emptied, until remove-data or -undrain")
	cmd.Flags().StringVar(&f.undrain, "undrain", "", "TCP address of a data node that is not to be drained any more")
	cmd.Flags().StringVar(&f.maxRate, "max-rate", "48m", "bytes a second that are copied, such as 20m; 0 is no limit")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON; of a run, a line for each event")
	return cmd
}

// params are the parameters of the routes of a rebalance.
func (f rebalanceFlags) params() (url.Values, error) {
	var rate itoml.Size
	if err := rate.UnmarshalText([]byte(f.maxRate)); err != nil {
		return nil, fmt.Errorf("-max-rate: %w", err)
	}
	params := url.Values{"max-rate": {strconv.FormatUint(uint64(rate), 10)}}
	if f.drain != "" {
		params.Set("drain", f.drain)
	}
	return params, nil
}

// planRebalance prints a plan.
func (c *client) planRebalance(cmd *cobra.Command, f rebalanceFlags) error {
	params, err := f.params()
	if err != nil {
		return err
	}
	var p wire.RebalancePlan
	if err := c.patient().call(cmd.Context(), http.MethodGet, "/rebalance", params, &p); err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if f.asJSON {
		return printJSON(w, p)
	}
	rows := [][]string{{"Shard", "Database", "Retention Policy", "Step", "From", "To", "Size", "Reason"}}
	for _, s := range p.Steps {
		rows = append(rows, []string{
			strconv.FormatUint(s.ShardID, 10), s.Database, s.Policy, s.Kind, s.From, s.To, size(s.Bytes), s.Reason,
		})
	}
	table(w, "Plan", rows)
	fmt.Fprintln(w)
	rows = [][]string{{"Node", "Before", "After", ""}}
	for _, n := range p.Nodes {
		draining := ""
		if n.Draining {
			draining = "is drained"
		}
		rows = append(rows, []string{n.TCPAddr, size(n.Before), size(n.After), draining})
	}
	table(w, "Bytes", rows)
	fmt.Fprintf(w, "\n%s\n", planned(p))
	return nil
}

// planned is a plan in some lines.
func planned(p wire.RebalancePlan) string {
	say := fmt.Sprintf("%d steps copy %s.", len(p.Steps), size(p.Bytes))
	if len(p.Steps) == 0 {
		say = "There is nothing to do."
	}
	for _, problem := range p.Problems {
		say += "\nNot in the plan: " + problem
	}
	return say
}

var errMetaNodeGone = errors.New("the meta node went away: run influxd-ctl rebalance again, which goes on from there")

// runRebalance runs a rebalance, and prints how far it is, until it has ended or somebody stops it.
func (c *client) runRebalance(cmd *cobra.Command, f rebalanceFlags) error {
	params, err := f.params()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := newRebalanceProgress(cmd.OutOrStdout(), f.asJSON)
	resp, err := c.patient().send(ctx, http.MethodPost, "/rebalance", params, nil)
	if err != nil {
		return w.stopped(ctx, err)
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var e wire.RebalanceEvent
		if err := events.Decode(&e); err != nil {
			return w.stopped(ctx, errMetaNodeGone)
		}
		w.show(e)
		if e.Ended && e.Error != "" {
			return cli.AsPartial(errors.New(e.Error))
		} else if e.Ended {
			return nil
		}
	}
}

// quietFor is how long nothing is printed while a copy is made, where there is no terminal.
const quietFor = 10 * time.Second

// rebalanceProgress prints the events of a run: a line for each shard. On a terminal the last line changes while its
// copy is made.
type rebalanceProgress struct {
	w        io.Writer
	asJSON   bool
	terminal bool

	printed  time.Time           // when the last line was
	copying  *wire.RebalanceStep // the copy that is being made
	draining []string
	steps    int
	copied   int64 // of plans that have ended
	all      wire.RebalanceTotal
}

func newRebalanceProgress(w io.Writer, asJSON bool) *rebalanceProgress {
	f, ok := w.(*os.File)
	return &rebalanceProgress{w: w, asJSON: asJSON, terminal: ok && !asJSON && term.IsTerminal(int(f.Fd()))}
}

// show prints an event.
func (p *rebalanceProgress) show(e wire.RebalanceEvent) {
	p.note(e)
	switch {
	case p.asJSON:
		json.NewEncoder(p.w).Encode(e)
	case e.Ended:
		p.end(e)
	case e.Plan != nil:
		p.line(planned(*e.Plan))
	case len(e.Waiting) > 0:
		p.live(waitingFor(e.Waiting))
	case e.State == wire.StepCopying, e.State == wire.StepWaiting:
		p.live(stepLine(e))
	case e.Step != nil:
		p.line(stepLine(e))
	}
}

// note keeps what the end of the run, or who stops it, has to know.
func (p *rebalanceProgress) note(e wire.RebalanceEvent) {
	if e.Plan != nil {
		p.steps, p.copied = p.steps+p.all.Ended, p.copied+p.all.Copied
		p.draining = nil
		for _, n := range e.Plan.Nodes {
			if n.Draining {
				p.draining = append(p.draining, n.TCPAddr)
			}
		}
	}
	if e.Plan != nil || e.Step != nil {
		p.all = e.All
	}
	switch {
	case e.State == wire.StepCopying:
		p.copying = e.Step
	case e.Step != nil && p.copying != nil && e.Step.ShardID == p.copying.ShardID:
		p.copying = nil
	}
}

// end prints what came of the run. The error is printed elsewhere.
func (p *rebalanceProgress) end(e wire.RebalanceEvent) {
	if steps := p.steps + p.all.Ended; e.Error == "" && steps > 0 {
		p.line(fmt.Sprintf("Done: %d steps copied %s.", steps, size(p.copied+p.all.Copied)))
	}
	for _, addr := range e.Empty {
		p.line(fmt.Sprintf("%s is empty: remove it with influxd-ctl remove-data %[1]s", addr))
	}
}

// line prints a line that stays.
func (p *rebalanceProgress) line(text string) {
	if p.terminal {
		text = "\r\x1b[K" + text
	}
	fmt.Fprintln(p.w, text)
	p.printed = time.Now()
}

// live prints a line that the next one replaces. Where there is no terminal, it prints one at times.
func (p *rebalanceProgress) live(text string) {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K"+text)
	} else if time.Since(p.printed) >= quietFor {
		p.line(text)
	}
}

// waitingFor names the copies that a run waits for before it plans.
func waitingFor(copies []wire.CopyStatus) string {
	c := copies[0]
	say := fmt.Sprintf("Waiting for the copy of shard %d from %s to %s: %s of %s",
		c.ShardID, c.Source, c.Dest, size(c.CurrentSize), size(c.TotalSize))
	if more := len(copies) - 1; more > 0 {
		say += fmt.Sprintf(", and for %d more", more)
	}
	return say
}

// stepLine is how far a step is.
func stepLine(e wire.RebalanceEvent) string {
	s := e.Step
	say := fmt.Sprintf("shard %d of %s.%s: ", s.ShardID, s.Database, s.Policy)
	switch s.Kind {
	case "copy":
		say += "copy to " + s.To
	case "move":
		say += "move from " + s.From + " to " + s.To
	case "remove":
		say += "remove from " + s.From
	}
	switch e.State {
	case wire.StepCopying:
		say += fmt.Sprintf(", %s of %s, %s/s%s",
			size(e.Copied), size(s.Bytes), size(int64(e.Speed.Rate)), secondsLeft(e.Speed.Left))
		return say + fmt.Sprintf("; in all %d of %d steps, %s of %s%s",
			e.All.Ended, e.All.Steps, size(e.All.Copied), size(e.All.Bytes), secondsLeft(e.All.Left))
	case wire.StepDone:
		say += ", done"
		if e.Copied > 0 {
			say += ", " + size(e.Copied)
		}
	default:
		say += ", " + string(e.State)
	}
	if e.Note != "" {
		say += ": " + e.Note
	}
	return say
}

// secondsLeft is how long something takes, if that is known.
func secondsLeft(s float64) string {
	if s <= 0 {
		return ""
	}
	return ", " + time.Duration(s*float64(time.Second)).Round(time.Second).String() + " left"
}

// stopped is the error of a run whose events end early. When a person ended it, it says what goes on all the same.
func (p *rebalanceProgress) stopped(ctx context.Context, err error) error {
	if p.terminal {
		fmt.Fprintln(p.w)
	}
	if ctx.Err() == nil {
		return err
	}
	say := []string{"stopped, and influxd-ctl rebalance goes on from here"}
	if s := p.copying; s != nil {
		say = append(say, fmt.Sprintf("the copy of shard %d is still made: "+
			"stop it with influxd-ctl kill-copy-shard %s %s %[1]d", s.ShardID, s.Source, s.To))
	}
	for _, addr := range p.draining {
		say = append(say, fmt.Sprintf("%s gets no new shards: influxd-ctl rebalance -undrain %[1]s ends that", addr))
	}
	return errors.New(strings.Join(say, "; "))
}
