package reads

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// client is one for all: connections are kept for as many requests at a time as there are readers and writers.
var client = &http.Client{Transport: &http.Transport{
	MaxIdleConnsPerHost: 16, IdleConnTimeout: 10 * time.Second,
	DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
}}

// said is what a node answered: rows, warnings, or an error that it sent.
type said struct {
	series   []row
	warnings []string
	err      string
}

type row struct {
	Tags    map[string]string
	Columns []string
	Values  [][]any
}

// ask asks a node. An error is no answer at all: the node was not there, or did not answer in time.
func ask(ctx context.Context, address, db, statement string) (said, error) {
	form := url.Values{"db": {db}, "q": {statement}, "epoch": {"ns"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/query",
		strings.NewReader(form.Encode()))
	if err != nil {
		return said{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return said{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return said{}, err
	}
	return parse(resp.StatusCode, b)
}

// parse reads an answer. One that is no JSON is an error that the node sent.
func parse(status int, b []byte) (s said, err error) {
	var out struct {
		Results []struct {
			Series   []row
			Messages []struct{ Level, Text string }
			Error    string
			Partial  bool
		}
		Error string
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		s.err = fmt.Sprintf("status %d: %.200s", status, b)
		return s, nil
	}
	s.err = out.Error
	for _, r := range out.Results {
		if s.err == "" {
			s.err = r.Error
		}
		if r.Partial && s.err == "" {
			s.err = "the answer is partial"
		}
		for _, m := range r.Messages {
			if m.Level == "warning" {
				s.warnings = append(s.warnings, m.Text)
			}
		}
		s.series = append(s.series, r.Series...)
	}
	if s.err == "" && (status != http.StatusOK || len(out.Results) == 0) {
		s.err = fmt.Sprintf("status %d: %.200s", status, b)
	}
	return s, nil
}

// read makes an answer out of rows, as the form of the question has them.
func (q asked) read(s said) (a answer, err error) {
	a = answer{points: make(map[cell]int64), cells: make(map[cell]tally)}
	for _, r := range s.series {
		for _, v := range r.Values {
			t, value, err := numbers(v)
			if err != nil {
				return a, err
			}
			c := cell{series: q.series}
			switch {
			case q.form == raw && q.series == "":
				name, ok := v[len(v)-1].(string)
				if !ok {
					return a, fmt.Errorf("row %v has no series", v)
				}
				c = cell{name, t}
			case q.form == raw:
				c.from = t
			case q.form == bySeries:
				c = cell{series: r.Tags["s"]}
			case q.form == byTime:
				c = cell{from: t}
			default:
				c = cell{}
			}
			if q.form == raw {
				if _, twice := a.points[c]; twice {
					return a, fmt.Errorf("series %s has two points at %d", c.series, t)
				}
				a.points[c] = value.count // the first number of a raw row is its value
				continue
			}
			if value.count > 0 {
				a.cells[c] = value
			}
		}
	}
	return a, nil
}

// numbers are the time, and the one or two numbers of a row; null is 0.
func numbers(v []any) (t int64, out tally, err error) {
	if len(v) < 2 {
		return 0, out, fmt.Errorf("row %v is too short", v)
	}
	for i, to := range []*int64{&t, &out.count, &out.sum} {
		if i >= len(v) {
			break
		}
		switch n := v[i].(type) {
		case nil, string:
		case json.Number:
			if *to, err = n.Int64(); err != nil {
				return 0, out, fmt.Errorf("row %v: %w", v, err)
			}
		default:
			return 0, out, fmt.Errorf("row %v is not what was asked for", v)
		}
	}
	return t, out, nil
}

// write sends points, and tells what the client knows of their fate.
func write(ctx context.Context, address, db, level string, lines []byte) (fate, string) {
	v := url.Values{"db": {db}, "consistency": {level}, "precision": {"ns"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/write?"+v.Encode(),
		strings.NewReader(string(lines)))
	if err != nil {
		return refused, err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return unanswered(err), err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode == http.StatusNoContent {
		return acknowledged, ""
	}
	return limbo, fmt.Sprintf("%s: %.200s", resp.Status, b)
}

// unanswered is the fate of an operation without an answer.
func unanswered(err error) fate {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return refused
	}
	return limbo
}

var (
	addresses = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+(:\d+)?`)
	digits    = regexp.MustCompile(`\d+`)
)

// sort of a warning or an error: its text without what differs from one to the next.
func sortOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = digits.ReplaceAllString(addresses.ReplaceAllString(text, "ADDR"), "N")
	return fmt.Sprintf("%.160s", text)
}
