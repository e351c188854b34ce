package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"concord/internal/whois"
)

// serveWhoIs tells a data node what this meta node knows of its place, and which process answers there.
func (s *Server) serveWhoIs(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.FormValue("node"), 10, 64)
	if err != nil {
		reply(w, nil, errors.New("node: must be a number"))
		return
	}
	st := s.State()
	if st.Data.ClusterID == 0 {
		reply(w, nil, ErrNotInitialised)
		return
	}
	if c := r.FormValue("cluster"); c != strconv.FormatUint(st.Data.ClusterID, 10) {
		reply(w, nil, errors.New("cluster: not the one that this node is in"))
		return
	}
	report := whois.Recorded(st, id)
	report.Look(r.Context(), s.pool)
	reply(w, report, nil)
}

// AskPlace asks a meta node what it knows of this data node's place.
func (c *Client) AskPlace(ctx context.Context, server string) (report whois.Report, err error) {
	who := c.who.Load()
	b, err := c.http.ask(ctx, http.MethodGet, server, "/who-is", url.Values{
		"node": {strconv.FormatUint(who.NodeID, 10)}, "cluster": {strconv.FormatUint(who.ClusterID, 10)},
	})
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return report, fmt.Errorf("answer of meta node %s: %w", server, err)
	}
	return report, nil
}
