package deletes

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
	"concord/internal/statement"
)

var everyName = regexp.MustCompile(`.*`)

var errUnknown = errors.New("unknown statement")

// check refuses an invalid delete. The name of the database is that of a folder.
func check(r *rpc.Delete) error {
	if err := checkDatabase(r.GetDatabase()); err != nil {
		return err
	}
	switch r.Kind {
	case rpc.Delete_DELETE_SERIES:
		return checkDelete(r)
	case rpc.Delete_DROP_MEASUREMENT:
		if r.Name == "" {
			return errors.New("no measurement")
		}
		return nil
	}
	return errUnknown
}

func checkDatabase(name string) error {
	if !emeta.ValidName(name) {
		return fmt.Errorf("invalid database %q", name)
	}
	return nil
}

// checkDelete refuses what every store refuses. Such a delete would stay in a queue for ever.
func checkDelete(r *rpc.Delete) error {
	sources, _, err := parseDelete(r.Statement)
	if err != nil {
		return err
	}
	if _, err := newCovering(r, ""); err != nil {
		return err
	}
	for _, s := range sources { // newCovering has checked that they are of type Measurement
		want, got := sources[0].(*influxql.Measurement).RetentionPolicy, s.(*influxql.Measurement).RetentionPolicy
		if got != want {
			return fmt.Errorf("mixed retention policies not supported, wanted %q got %q", want, got)
		}
	}
	return nil
}

// neverRuns reports whether the engine refuses a delete each time that it is run. That depends on which fields the
// store has, and so is not known before.
func neverRuns(err error) bool {
	return err != nil && strings.Contains(err.Error(), "fields not supported in WHERE clause during deletion")
}

// deleteText writes a delete as InfluxQL. It returns an error unless parseDelete reads the same delete from the text:
// names and expressions with control characters or invalid UTF-8 cannot be written, and nothing else must be deleted in
// their place.
func deleteText(sources []influxql.Source, cond influxql.Expr) (string, error) {
	// A time literal is written as a string, and read as one.
	cond = influxql.RewriteExpr(influxql.CloneExpr(cond), func(e influxql.Expr) influxql.Expr {
		if t, ok := e.(*influxql.TimeLiteral); ok {
			return &influxql.StringLiteral{Val: t.Val.UTC().Format(time.RFC3339Nano)}
		}
		return e
	})
	text := (&influxql.DeleteSeriesStatement{Sources: sources, Condition: cond}).String()
	gotSources, gotCond, err := parseDelete(text)
	if err == nil && (!reflect.DeepEqual(gotSources, sources) || !reflect.DeepEqual(gotCond, cond)) {
		err = errors.New("its text is parsed as another delete")
	}
	if err != nil {
		return "", fmt.Errorf("this delete cannot be sent to other nodes as %q: %w", text, err)
	}
	return text, nil
}

func parseDelete(text string) ([]influxql.Source, influxql.Expr, error) {
	if err := statement.Peer.Query(text, nil); err != nil {
		return nil, nil, fmt.Errorf("parse the delete: %w", err)
	}
	q, err := influxql.ParseQuery(text)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the delete: %w", err)
	}
	if len(q.Statements) == 1 {
		if d, ok := q.Statements[0].(*influxql.DeleteSeriesStatement); ok {
			return d.Sources, d.Condition, nil
		}
	}
	return nil, nil, fmt.Errorf("%q is not a delete", text)
}
