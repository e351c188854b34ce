package devcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxql"
)

const (
	tourDB    = "tour"
	tourHosts = 100
	tourStep  = 30 * time.Second
	tourQuery = "SELECT count(usage_user), mean(usage_user), first(usage_user), last(usage_user) FROM cpu"
)

// tour is the story that `influxd dev` tells: damage two replicas, find it,
// repair it, prove it. Each step checks what it claims.
type tour struct {
	c   *Cluster
	out io.Writer
	day time.Time // yesterday 00:00 UTC
	rng *rand.Rand
}

// Tour runs the story on a fresh cluster of at least three data nodes and
// prints it to out. It returns an error when a claim did not come true.
func Tour(ctx context.Context, c *Cluster, out io.Writer) error {
	t := &tour{
		c: c, out: out, day: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1),
		rng: rand.New(rand.NewSource(1)),
	}
	for _, step := range []func(context.Context) error{t.fill, t.damage, t.find, t.heal} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) say(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// fill writes a day of host metrics to all three replicas.
func (t *tour) fill(ctx context.Context) error {
	t.say("\n1. Create database %q with three replicas and write a day of host metrics.", tourDB)
	node := t.c.Client(0)
	if _, err := node.Query(ctx, "", `CREATE DATABASE "`+tourDB+`" WITH REPLICATION 3 NAME "autogen"`); err != nil {
		return err
	}
	start := time.Now()
	n, err := t.write(ctx, t.day, t.day.Add(24*time.Hour), "all")
	if err != nil {
		return err
	}
	t.say("   wrote %d points in %d series at consistency=all in %s",
		n, tourHosts, time.Since(start).Round(100*time.Millisecond))
	answers, err := t.answers(ctx)
	if err != nil {
		return err
	}
	if err := t.equal(answers); err != nil {
		return err
	}
	if got := answers[0][0][1]; fmt.Sprint(got) != strconv.Itoa(n) {
		return fmt.Errorf("wrote %d points but the replicas count %v", n, got)
	}
	return nil
}

// write sends one point for each host and step of [from, to) and returns how many.
func (t *tour) write(ctx context.Context, from, to time.Time, consistency string) (int, error) {
	const batch = 5000
	var (
		lines []byte
		total int
		held  int
	)
	flush := func() error {
		if held == 0 {
			return nil
		}
		if err := t.c.Client(0).Write(ctx, tourDB, consistency, lines); err != nil {
			return err
		}
		total, held, lines = total+held, 0, lines[:0]
		return nil
	}
	for at := from; at.Before(to); at = at.Add(tourStep) {
		for h := range tourHosts {
			user := float64(int(200+float64(h)+600*t.rng.Float64())) / 10
			lines = fmt.Appendf(lines, "cpu,host=web%03d,region=%s usage_user=%.1f,load=%di %d\n",
				h, [...]string{"eu", "us", "ap"}[h%3], user, int(user)/8, at.UnixNano())
			if held++; held == batch {
				if err := flush(); err != nil {
					return total, err
				}
			}
		}
	}
	err := flush()
	return total, err
}

// damage makes the replicas of nodes 2 and 3 differ from that of node 1, each in its own way.
func (t *tour) damage(ctx context.Context) error {
	t.say("\n2. Cut the link of data node 3, write some more; delete points behind the back of data node 2.")
	t.c.Cut(2)
	from := t.day.Add(15 * time.Second) // between the points that are there
	n, err := t.write(ctx, from, from.Add(90*time.Minute), "one")
	if err != nil {
		return err
	}
	t.say("   node 3 missed %d points", n)
	cond := influxql.MustParseExpr(fmt.Sprintf("host = 'web007' AND time >= %d AND time < %d",
		t.day.Add(6*time.Hour).UnixNano(), t.day.Add(9*time.Hour).UnixNano()))
	if err := t.c.Data[1].Store.DeleteSeries(tourDB, []influxql.Source{&influxql.Measurement{Name: "cpu"}},
		cond); err != nil {
		return fmt.Errorf("delete on the engine of node 2: %w", err)
	}
	t.say("   node 2 lost three hours of host web007, straight from its storage engine")
	answers, err := t.answers(ctx)
	if err != nil {
		return err
	}
	if t.equal(answers) == nil {
		return fmt.Errorf("the replicas still agree after the damage")
	}
	t.c.Heal(2)
	t.say("   the link of node 3 is back")
	return nil
}

// find waits for the next check to see the damage.
func (t *tour) find(ctx context.Context) error {
	t.say("\n3. Anti-entropy compares the replicas by itself. GET /shard-repair/status on node 2:")
	var raw []byte
	err := t.c.Wait(ctx, func() bool {
		s, r, err := t.c.Client(1).EntropyStatus(ctx)
		raw = r
		if err != nil {
			return false
		}
		for _, sh := range s.Shards {
			if sh.Database == tourDB && sh.Status == "diff" {
				return true
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("no check found the damage: %w", err)
	}
	t.say("   %s", raw)
	return nil
}

// heal queues the repair on a node that need not be the one to drive it.
func (t *tour) heal(ctx context.Context) error {
	t.say("\n4. What a copy is known to miss is repaired at once. Ask for it on any node, as for any other difference, " +
		"and wait.")
	s, _, err := t.c.Client(1).EntropyStatus(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	for _, sh := range s.Shards {
		t.say("   POST /shard-repair/repair?id=%s", sh.ID)
		if err := t.c.Client(2).Repair(ctx, sh.ID); err != nil {
			return err
		}
	}
	clean := t.c.Wait(ctx, func() bool {
		s, _, err := t.c.Client(0).EntropyStatus(ctx)
		return err == nil && s.Clean()
	})
	if clean != nil {
		return fmt.Errorf("the cluster did not become clean: %w", clean)
	}
	t.say("   clean after %s", time.Since(start).Round(100*time.Millisecond))
	answers, err := t.answers(ctx)
	if err != nil {
		return err
	}
	if err := t.equal(answers); err != nil {
		return err
	}
	t.say("\nAll three replicas agree, each asked alone.")
	return nil
}

// answers asks each replica alone: with its links cut, a node has nothing but its own shards.
func (t *tour) answers(ctx context.Context) ([][][]any, error) {
	t.say("   each replica alone:            count       mean      first       last")
	var out [][][]any
	for i := range t.c.Data {
		was := t.c.Cut(i)
		rows, err := t.c.Client(i).Query(ctx, tourDB, tourQuery)
		if !was {
			t.c.Heal(i)
		}
		if err != nil {
			return nil, fmt.Errorf("ask node %d: %w", i+1, err)
		}
		if len(rows) != 1 || len(rows[0]) != 5 {
			return nil, fmt.Errorf("node %d answered %v to %s", i+1, rows, tourQuery)
		}
		r := rows[0]
		t.say("   data node %d          %14v %10.6v %10v %10v", i+1, r[1], r[2], r[3], r[4])
		out = append(out, rows)
	}
	return out, nil
}

// sameNumber lets the last digits of floats differ. Their sum depends on the order in which they are added, and so on
// what is in files and what is in the write cache.
var sameNumber = cmp.Comparer(func(a, b json.Number) bool {
	if a == b || !strings.ContainsAny(string(a+b), ".eE") {
		return a == b
	}
	x, _ := a.Float64()
	y, _ := b.Float64()
	return math.Abs(x-y) <= 1e-12*math.Abs(x)
})

// equal checks that all replicas gave the same answer.
func (t *tour) equal(answers [][][]any) error {
	for i, a := range answers[1:] {
		if d := cmp.Diff(answers[0], a, sameNumber); d != "" {
			return fmt.Errorf("data nodes 1 and %d disagree:\n%s", i+2, d)
		}
	}
	return nil
}
