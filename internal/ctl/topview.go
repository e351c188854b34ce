package ctl

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"concord/internal/entropy/api"
)

// clusterState is what influxd-ctl reads of the answer of GET /cluster/state. A test compares it with what the page
// sends: that package links the engine, and influxd-ctl must not.
type clusterState struct {
	Summary struct {
		Level       string     `json:"level"` // good, busy, warn or bad
		Sentence    string     `json:"sentence"`
		Shards      int        `json:"shards"`
		Agree       int        `json:"agree"`
		Checked     *time.Time `json:"checked"`
		Deletes     int        `json:"deletes"` // that wait for nodes
		MoreDeletes bool       `json:"more_deletes"`
	} `json:"summary"`
	Attention map[string]struct {
		Level string `json:"level"` // warn or bad
		Text  string `json:"text"`
		Do    string `json:"do"`
	} `json:"attention"`
	Nodes   map[string]stateNode   `json:"nodes"`
	Shards  map[string]stateShard  `json:"shards"`
	Repairs map[string]stateRepair `json:"repairs"`
	Meta    map[string]struct {
		Address string `json:"address"`
		Up      bool   `json:"up"`
		State   string `json:"state"`
	} `json:"meta"`
	Settings map[string]struct {
		Paused bool `json:"paused"`
	} `json:"settings"`
}

type stateNode struct {
	Address string     `json:"address"`
	Up      bool       `json:"up"`
	Since   *time.Time `json:"since"`
	Version string     `json:"version"`
	Disks   []struct {
		Free uint64 `json:"free"`
		Size uint64 `json:"size"`
	} `json:"disks"`
	Hints []stateHints `json:"hints"`
	Bytes int64        `json:"bytes"`
	Load  *struct {
		Writes  float64 `json:"writes"`
		Queries float64 `json:"queries"`
	} `json:"load"`
}

// stateHints is what a node keeps for another one.
type stateHints struct {
	For    string     `json:"for"` // ID
	Bytes  int64      `json:"bytes"`
	Oldest *time.Time `json:"oldest"`
}

type stateShard struct {
	Database string `json:"database"`
	Policy   string `json:"policy"`
	Status   string `json:"status"`
	Message  string `json:"message"`
}

type stateRepair struct {
	Shard    string     `json:"shard"`
	State    string     `json:"state"`
	Added    *time.Time `json:"added"`
	Ended    *time.Time `json:"ended"`
	Progress float64    `json:"progress"`
	Points   int        `json:"points"`
	Rate     float64    `json:"rate"`
	Left     float64    `json:"left"`
	Error    string     `json:"error"`
}

// style is how a line looks on a terminal.
type style int

const (
	plain style = iota
	bold
	good
	warn
	bad
	dim
)

// levels are the styles of the levels that the page has.
var levels = map[string]style{"good": good, "busy": bold, "warn": warn, "bad": bad}

// styled is a line of a screen.
type styled struct {
	style style
	text  string
}

// lines are the screen, the most important first.
func (s clusterState) lines(now time.Time) []styled {
	out := s.agreement(now)
	for _, section := range [][]styled{s.attention(), s.nodes(now), s.repairs(), s.differing()} {
		if len(section) > 0 {
			out = append(append(out, styled{}), section...)
		}
	}
	for i := range out {
		out[i].text = printable(out[i].text)
	}
	return out
}

// printable replaces what a terminal would obey: messages have names that clients chose.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// agreement is the sentence, and the number.
func (s clusterState) agreement(now time.Time) []styled {
	out := []styled{{levels[s.Summary.Level], s.Summary.Sentence}}
	var facts []string
	if n := s.Summary.Shards; n > 0 {
		// Rounded down: 100 % is said of all alone.
		facts = append(facts, fmt.Sprintf("%.1f %% agree", float64(1000*s.Summary.Agree/n)/10))
	}
	if at := s.Summary.Checked; at != nil {
		facts = append(facts, "the last check of all ended "+ago(*at, now)+" ago")
	}
	if len(s.Meta) > 0 {
		leader, up := "nobody", 0
		for _, m := range s.Meta {
			if m.Up {
				up++
			}
			if m.State == "leader" {
				leader = m.Address
			}
		}
		facts = append(facts, fmt.Sprintf("%d of %d meta nodes answer, %s leads", up, len(s.Meta), leader))
	}
	if n := s.Summary.Deletes; n > 0 {
		least := ""
		if s.Summary.MoreDeletes {
			least = "at least "
		}
		facts = append(facts, fmt.Sprintf("deletes that wait for nodes: %s%d", least, n))
	}
	if len(facts) > 0 {
		out = append(out, styled{dim, strings.Join(facts, ", ")})
	}
	return out
}

// attention is what needs a person.
func (s clusterState) attention() (out []styled) {
	keys := slices.SortedFunc(maps.Keys(s.Attention), func(a, b string) int {
		x, y := s.Attention[a], s.Attention[b]
		return cmp.Or(cmp.Compare(x.Level, y.Level), cmp.Compare(x.Text, y.Text)) // bad is before warn
	})
	for _, k := range keys {
		a := s.Attention[k]
		out = append(out, styled{levels[a.Level], "! " + a.Text + ". " + a.Do})
	}
	return out
}

// nodes is a table of the data nodes.
func (s clusterState) nodes(now time.Time) []styled {
	rows := [][]string{{"Data Node", "State", "Since", "Version", "Free Disk", "Data", "Writes/s", "Queries/s",
		"Hints"}}
	styles := []style{bold}
	nodes := slices.SortedFunc(maps.Values(s.Nodes),
		func(a, b stateNode) int { return cmp.Compare(a.Address, b.Address) })
	for _, n := range nodes {
		row := []string{n.Address, "up", "", n.Version, "", size(n.Bytes), "", "", s.hints(n, now)}
		st := plain
		if !n.Up {
			row[1], row[5], st = "away", "", bad
		}
		if n.Since != nil {
			row[2] = ago(*n.Since, now)
		}
		if n.Bytes == 0 {
			row[5] = ""
		}
		least := 2.0
		for _, d := range n.Disks { // the one with the smallest part free says it
			part := float64(d.Free) / float64(max(d.Size, 1))
			if part < least {
				least, row[4] = part, fmt.Sprintf("%.0f %% %s", 100*part, size(int64(d.Free)))
			}
		}
		if n.Load != nil {
			row[6], row[7] = rate(n.Load.Writes), rate(n.Load.Queries)
		}
		rows, styles = append(rows, row), append(styles, st)
	}
	return columns(rows, styles)
}

// hints says what a node keeps for others, the most first.
func (s clusterState) hints(n stateNode, now time.Time) string {
	waiting := slices.Clone(n.Hints)
	slices.SortFunc(waiting, func(a, b stateHints) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.For, b.For))
	})
	var out []string
	for _, h := range waiting {
		if h.Bytes == 0 {
			continue
		}
		text := size(h.Bytes) + " for " + cmp.Or(s.Nodes[h.For].Address, "node "+h.For)
		if h.Oldest != nil {
			text += " since " + ago(*h.Oldest, now)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// repairs is what runs, with bars, and what waits.
func (s clusterState) repairs() (out []styled) {
	var paused, waiting []string
	for addr, set := range s.Settings {
		if set.Paused {
			paused = append(paused, addr)
		}
	}
	open := slices.DeleteFunc(slices.Collect(maps.Values(s.Repairs)), func(r stateRepair) bool { return r.Ended != nil })
	slices.SortFunc(open, func(a, b stateRepair) int { return compareIDs(a.Shard, b.Shard) })
	for _, r := range open {
		line := bar(api.Repair{
			ID: r.Shard, State: r.State, Progress: r.Progress, Points: r.Points, Rate: r.Rate, ETA: r.Left,
			Error: r.Error,
		})
		switch r.State {
		case "running":
			out = append(out, styled{plain, line})
		case "failed":
			waiting = append(waiting, r.Shard+" (failed)")
		default:
			waiting = append(waiting, r.Shard)
		}
	}
	if len(out) > 0 {
		out = append([]styled{{bold, "Running Repairs"}}, out...)
	}
	if len(waiting) > 0 {
		out = append(out, styled{plain, fmt.Sprintf("Queued Repairs: %d: %s", len(waiting),
			strings.Join(waiting, ", "))})
	}
	if len(paused) > 0 {
		slices.Sort(paused)
		out = append(out, styled{warn, "Repairs are paused on " + strings.Join(paused, ", ")})
	}
	return out
}

// differing are the shards whose replicas do not agree, conflicts first.
func (s clusterState) differing() []styled {
	order := []string{"corrupt", "conflict", "missing", "diff"}
	ids := slices.Collect(maps.Keys(s.Shards))
	ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(order, s.Shards[id].Status) })
	slices.SortFunc(ids, func(a, b string) int {
		x, y := slices.Index(order, s.Shards[a].Status), slices.Index(order, s.Shards[b].Status)
		return cmp.Or(cmp.Compare(x, y), compareIDs(a, b))
	})
	if len(ids) == 0 {
		return nil
	}
	rows, styles := [][]string{{"Shard", "Status", "Database", "Retention Policy", "Message"}}, []style{bold}
	for _, id := range ids {
		sh := s.Shards[id]
		st := warn
		if sh.Status == "corrupt" || sh.Status == "conflict" {
			st = bad
		}
		rows, styles = append(rows, []string{id, sh.Status, sh.Database, sh.Policy, sh.Message}), append(styles, st)
	}
	return columns(rows, styles)
}

// columns aligns rows, and gives each its style.
func columns(rows [][]string, styles []style) []styled {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = printable(c) // a tab or a line break would end a cell
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	out := make([]styled, 0, len(rows))
	for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		out = append(out, styled{styles[i], strings.TrimRight(line, " ")})
	}
	return out
}

// compareIDs compares IDs, which are decimal numbers.
func compareIDs(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// rate is how often something happens in a second.
func rate(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// ago is how long ago a time is, in its two largest units.
func ago(at, now time.Time) string {
	d := max(now.Sub(at), 0)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < day:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d/day), int(d.Hours())%24)
}
