package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"concord/internal/entropy/api"
)

// Client speaks to one data node's HTTP API, as any client of InfluxDB would.
type Client struct {
	Base string // http://host:port
}

// Client returns a client of data node i.
func (c *Cluster) Client(i int) Client { return Client{Base: "http://" + c.Data[i].HTTPAddr()} }

// Query runs an InfluxQL statement and returns the answer's values, row by row
// over all series, or the error that the answer carries.
func (c Client) Query(ctx context.Context, db, q string) ([][]any, error) {
	rows, _, err := c.Ask(ctx, db, q)
	return rows, err
}

// Ask is Query, with the warnings of the answer.
func (c Client) Ask(ctx context.Context, db, q string) (rows [][]any, warnings []string, err error) {
	form := url.Values{"db": {db}, "q": {q}, "epoch": {"ns"}}
	b, err := c.do(ctx, http.MethodPost, "/query", "application/x-www-form-urlencoded",
		strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, err
	}
	var out struct {
		Results []struct {
			Error    string
			Series   []struct{ Values [][]any }
			Messages []struct{ Level, Text string }
		}
		Error string
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		return nil, nil, fmt.Errorf("answer of %s: %w", c.Base, err)
	}
	if out.Error != "" {
		return nil, nil, fmt.Errorf("%s: %s", q, out.Error)
	}
	for _, r := range out.Results {
		if r.Error != "" {
			return nil, nil, fmt.Errorf("%s: %s", q, r.Error)
		}
		for _, m := range r.Messages {
			warnings = append(warnings, m.Level+": "+m.Text)
		}
		for _, s := range r.Series {
			rows = append(rows, s.Values...)
		}
	}
	return rows, warnings, nil
}

// Write sends line protocol with nanosecond times.
func (c Client) Write(ctx context.Context, db, consistency string, lines []byte) error {
	v := url.Values{"db": {db}, "consistency": {consistency}, "precision": {"ns"}}
	_, err := c.do(ctx, http.MethodPost, "/write?"+v.Encode(), "text/plain", bytes.NewReader(lines))
	return err
}

// EntropyStatus asks for the whole cluster's status; raw is the answer as it came.
func (c Client) EntropyStatus(ctx context.Context) (s api.Status, raw []byte, err error) {
	if raw, err = c.do(ctx, http.MethodGet, api.Base+"/status", "", nil); err != nil {
		return s, nil, err
	}
	err = json.Unmarshal(raw, &s)
	return s, raw, err
}

// Repair queues a shard.
func (c Client) Repair(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodPost, api.Base+"/repair?id="+url.QueryEscape(id), "", nil)
	return err
}

func (c Client) do(ctx context.Context, method, path, contentType string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(b)))
	}
	return b, nil
}
