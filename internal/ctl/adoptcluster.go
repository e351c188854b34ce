package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"concord/internal/meta/wire"
)

// adoptCluster hands the metadata of a running influxdb-cluster on to the meta nodes.
func (c *client) adoptCluster(ctx context.Context, old string, dryRun bool) (a wire.Adoption, err error) {
	if !strings.Contains(old, "://") {
		old = "http://" + old
	}
	base, err := url.Parse(old)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return a, errors.New("-influxdb-cluster needs the HTTP address of its leading meta node, such as meta1:8091")
	}
	metadata, err := c.oldMetadata(ctx, base)
	if err != nil {
		return a, err
	}
	params := url.Values{"dry-run": {strconv.FormatBool(dryRun)}}
	err = c.slow().callWith(ctx, http.MethodPost, "/adopt-cluster", params, bytes.NewReader(metadata), &a)
	return a, err
}

// oldMetadata asks a meta node of influxdb-cluster for all metadata. It must lead: another one may be behind.
func (c *client) oldMetadata(ctx context.Context, base *url.URL) ([]byte, error) {
	b, err := c.askOld(ctx, base, "/status")
	if err != nil {
		return nil, err
	}
	var status struct{ NodeType, Leader, RaftAddr string }
	if err := json.Unmarshal(b, &status); err != nil || status.NodeType != "meta" {
		return nil, fmt.Errorf("%s is not a meta node of influxdb-cluster", base.Host)
	}
	if status.Leader == "" || status.Leader != status.RaftAddr {
		return nil, fmt.Errorf("meta node %s does not lead its cluster: ask the one whose Raft address is %q",
			base.Host, status.Leader)
	}
	return c.askOld(ctx, base, "/?index=0")
}

func (c *client) askOld(ctx context.Context, base *url.URL, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.Scheme+"://"+base.Host+path, nil)
	if err != nil {
		return nil, err
	}
	if base.User != nil {
		pwd, _ := base.User.Password()
		req.SetBasicAuth(base.User.Username(), pwd)
	}
	hc := &http.Client{Transport: http.DefaultTransport}
	if base.Scheme == "https" {
		hc.Transport = c.overTLS.get(c.insecure)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("meta node %s of the other cluster is unreachable: %w", base.Host, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxMetadata+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer of meta node %s of the other cluster: %w", base.Host, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("meta node %s of the other cluster: %s %.200s", base.Host, resp.Status,
			bytes.TrimSpace(b))
	case len(b) > wire.MaxMetadata:
		return nil, fmt.Errorf("meta node %s of the other cluster has more than %d bytes of metadata", base.Host,
			wire.MaxMetadata)
	}
	return b, nil
}

// printAwaited says which data nodes are to be adopted next.
func printAwaited(w io.Writer, a wire.Adoption) {
	fmt.Fprintln(w, "Data nodes that keep their IDs and shards:")
	for _, n := range a.Awaited {
		fmt.Fprintf(w, "  %d at %s\n", n.ID, n.TCPAddr)
	}
	if a.DryRun {
		fmt.Fprintln(w, "Nothing was changed")
		return
	}
	fmt.Fprintln(w, "Now, for each of them: stop the old influxd, start Concord's on the same folders, and run")
	fmt.Fprintln(w, "influxd-ctl adopt <tcp-addr>")
}
