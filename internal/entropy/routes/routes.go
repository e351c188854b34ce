// Package routes serves the HTTP API under /shard-repair, with which people and influxd-ctl look at anti-entropy and
// steer it. It checks requests and users, asks a View, which knows the whole cluster, and writes JSON. Its OpenAPI
// description is made in openapi.go, and the types of its JSON are in package api. docs/anti-entropy.md describes it.
package routes

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/api"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/view"
	"concord/internal/order"
)

// maxForm bounds the body of a POST in bytes.
const maxForm = 64 << 10

var methods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodHead, http.MethodOptions,
}

// Routes are those of a data node, for the engine's HTTP handler, which
// authenticates. Every method is ours, so that 404 and 405 are JSON as well.
func Routes(v *view.View) []httpd.Route {
	serve := func(w http.ResponseWriter, r *http.Request, user meta.User) {
		(&handler{v, func(*http.Request) meta.User { return user }}).ServeHTTP(w, r)
	}
	var routes []httpd.Route
	for _, m := range methods {
		// The engine's mux takes a pattern that ends in a slash as a prefix, and
		// redirects the base itself unless it has a route of its own, added before.
		for _, pattern := range []string{api.Base, api.Base + "/"} {
			routes = append(routes, httpd.Route{
				Name: "shard-repair", Method: m, Pattern: pattern,
				Gzipped: false, LoggingEnabled: true, HandlerFunc: serve,
			})
		}
	}
	return routes
}

// NewHandler returns the routes of a meta node, without authentication. userOf returns the user of a request, nil for
// one that may do everything.
func NewHandler(v *view.View, userOf func(*http.Request) meta.User) http.Handler {
	return &handler{v, userOf}
}

// handler serves the contract under api.Base.
type handler struct {
	view   *view.View
	userOf func(*http.Request) meta.User // nil for one that may do everything
}

// route is one call of the contract; /openapi.json is made of these.
type route struct {
	method  string
	access  access
	serve   func(*handler, http.ResponseWriter, *http.Request, url.Values) error
	summary string
	params  []parameter
	code    int // of success
	answer  any // a value of the type that the answer has, nil for none
}

// access is who may use a call when authentication is on.
type access int

const (
	everyUser access = iota // what is of databases that the user may not read is left out
	managers                // the call is about shards and their repairs; see hide
	admins                  // the call names series and values, or sets values aside
)

// allows reports whether a user may use a call.
func (a access) allows(user meta.User) bool {
	switch a {
	case everyUser:
		return true
	case managers:
		return cluster.May(user, cluster.ManageShard, "")
	}
	return cluster.May(user, cluster.ManageShard|cluster.ReadData|cluster.DropData, "")
}

// parameter is one of a call, in the query string or a form body.
type parameter struct {
	name     string
	kind     string // of OpenAPI
	required bool
	doc      string
}

var (
	idParameter    = parameter{"id", "integer", true, "ID of a shard"}
	localParameter = parameter{"local", "boolean", false, "only this node; not on meta nodes"}
)

// routes has every call but /openapi.json, which describes it.
var routes = map[string]route{
	"/status": {http.MethodGet, everyUser, (*handler).status, "Shards whose replicas differ, and the repair queue",
		[]parameter{localParameter}, http.StatusOK, api.Status{}},
	"/repair": {http.MethodPost, managers, (*handler).repair, "Queue the repair of a shard",
		[]parameter{idParameter}, http.StatusNoContent, nil},
	"/cancel-repair": {http.MethodPost, managers, (*handler).cancelRepair, "Take a shard from the queue and stop its repair",
		[]parameter{idParameter, localParameter}, http.StatusNoContent, nil},
	"/check": {http.MethodPost, managers, (*handler).check, "Check a shard, or all shards, now",
		[]parameter{{"id", "integer", false, "ID of a shard; all shards without it"}}, http.StatusAccepted, nil},
	"/diff": {http.MethodGet, admins, (*handler).diff, "A dry run: what a repair would find and send",
		[]parameter{idParameter}, http.StatusOK, api.Diff{}},
	"/resolve": {http.MethodPost, admins, (*handler).resolve, "Give a field one type on all owners of a shard, and set its values of other types aside",
		resolveParameters, http.StatusOK, api.Resolved{}},
	"/repairs": {http.MethodGet, managers, (*handler).repairs, "Running, waiting and ended repairs",
		nil, http.StatusOK, api.Repairs{}},
	"/pause": {http.MethodPost, managers, (*handler).pause, "Take no repairs, and stop running ones",
		nil, http.StatusNoContent, nil},
	"/max-rate": {http.MethodPost, managers, (*handler).maxRate,
		"Change how many bytes a second each node reads and sends for repairs, until it loads its configuration",
		[]parameter{{"bytes", "integer", true, "bytes a second; 0 for no limit"}}, http.StatusNoContent, nil},
	"/resume": {http.MethodPost, managers, (*handler).resume, "Take repairs again",
		nil, http.StatusNoContent, nil},
}

// find returns the route of a path below api.Base.
func find(path string) (route, bool) {
	if path == openAPIPath {
		return route{method: http.MethodGet, serve: (*handler).openAPI}, true
	}
	rt, ok := routes[path]
	return rt, ok
}

// crossSite refuses changes that a browser sends for a page of another site. Clients that are no browsers do not say
// where they come from, and are let through.
var crossSite = http.NewCrossOriginProtection()

// badRequest is an error that the client made.
type badRequest struct{ error }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.view.Enabled(r.Context()); err != nil {
		writeError(w, statusCode(err), err)
		return
	}
	rt, ok := find(strings.TrimPrefix(r.URL.Path, api.Base))
	if !ok {
		writeError(w, http.StatusNotFound, fmt.Errorf("%s is not a path of %s", r.URL.Path, api.Base))
		return
	}
	if r.Method != rt.method {
		w.Header().Set("Allow", rt.method)
		writeError(w, http.StatusMethodNotAllowed, fmt.Errorf("%s is for %s", r.URL.Path, rt.method))
		return
	}
	// A browser that is logged in sends its credentials also for a page of another site.
	if err := crossSite.Check(r); err != nil {
		writeError(w, http.StatusForbidden, fmt.Errorf("a page of another site may not do this: %w", err))
		return
	}
	if user := h.userOf(r); user != nil && !rt.access.allows(user) {
		writeError(w, http.StatusForbidden, errors.New("only an admin may do this, or a user with the permission ManageShard"))
		return
	}
	params, err := parameters(w, r)
	if err == nil && h.view.NodeID == nil && params.Has("local") {
		err = badRequest{errors.New("local means nothing on a meta node: ask a data node")}
	}
	if err == nil {
		err = rt.serve(h, w, r, params)
	}
	if err != nil {
		writeError(w, statusCode(err), err)
	}
}

// parameters are those of the query string and of a form body.
func parameters(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	var err error
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t == "multipart/form-data" {
		err = r.ParseMultipartForm(maxForm)
	} else {
		err = r.ParseForm()
	}
	if err != nil {
		return nil, badRequest{fmt.Errorf("malformed parameters: %w", err)}
	}
	return r.Form, nil
}

func statusCode(err error) int {
	switch {
	case errors.As(err, &badRequest{}), errors.As(err, &entropy.UnresolvableError{}), errors.Is(err, entropy.ErrUnknownShard):
		return http.StatusBadRequest
	case errors.Is(err, entropy.ErrDisabled):
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

func writeError(w http.ResponseWriter, code int, err error) {
	writeJSON(w, code, api.Failure{Error: err.Error()})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"cannot encode the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

// single returns the value of a parameter that may be given once; ok is whether it was.
func single(params url.Values, name string) (value string, ok bool, err error) {
	switch vs := params[name]; len(vs) {
	case 0:
		return "", false, nil
	case 1:
		return vs[0], true, nil
	}
	return "", true, badRequest{fmt.Errorf("parameter %s is given more than once", name)}
}

func shardID(params url.Values) (uint64, error) {
	v, ok, err := single(params, "id")
	if err != nil {
		return 0, err
	}
	if !ok || v == "" {
		return 0, badRequest{errors.New("parameter id is missing: the ID of a shard")}
	}
	id, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, badRequest{fmt.Errorf("parameter id is not the ID of a shard: %q", v)}
	}
	return id, nil
}

func isLocal(params url.Values) (bool, error) {
	v, ok, err := single(params, "local")
	if err != nil || !ok {
		return false, err
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, badRequest{fmt.Errorf("parameter local is not a boolean: %q", v)}
	}
	return b, nil
}

func (h *handler) status(w http.ResponseWriter, r *http.Request, params url.Values) error {
	local, err := isLocal(params)
	if err != nil {
		return err
	}
	st, err := h.view.Status(r.Context(), local)
	if err != nil {
		return err
	}
	visible := h.visible(h.userOf(r))
	out := api.Status{
		Shards: []api.Shard{}, Queued: idStrings(st.Queued, visible), Processing: idStrings(st.Processing, visible),
		Unreachable: st.Unreachable,
	}
	for _, s := range st.Shards {
		if !visible(s.ID) {
			continue
		}
		out.Shards = append(out.Shards, api.Shard{
			ID: strconv.FormatUint(s.ID, 10), Database: s.Database, RetentionPolicy: s.RetentionPolicy,
			Start: strconv.FormatInt(s.Start, 10), End: strconv.FormatInt(s.End, 10),
			Expires: strconv.FormatInt(s.Expires, 10), Status: string(s.Status), Message: s.Message,
		})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// visible returns whether a user may see what is said of a shard: it may read the database.
func (h *handler) visible(user meta.User) func(shard uint64) bool {
	if user == nil {
		return func(uint64) bool { return true }
	}
	live, state := h.view.Live(), h.view.State()
	return func(shard uint64) bool {
		sh, ok := live[shard]
		return ok && state.MaySee(user, sh.Database)
	}
}

func idStrings(ids []uint64, visible func(uint64) bool) []string {
	out := []string{}
	for _, id := range ids {
		if visible(id) {
			out = append(out, strconv.FormatUint(id, 10))
		}
	}
	return out
}

func (h *handler) repair(w http.ResponseWriter, r *http.Request, params url.Values) error {
	id, err := shardID(params)
	if err != nil {
		return err
	}
	repair, err := h.view.Repair(r.Context(), id)
	if err != nil {
		return err
	}
	if repair != "" {
		w.Header().Set(api.RepairIDHeader, repair)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) cancelRepair(w http.ResponseWriter, r *http.Request, params url.Values) error {
	id, err := shardID(params)
	if err != nil {
		return err
	}
	local, err := isLocal(params)
	if err != nil {
		return err
	}
	if err := h.view.CancelRepair(r.Context(), id, local); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) check(w http.ResponseWriter, r *http.Request, params url.Values) error {
	var id uint64
	if params.Has("id") {
		var err error
		if id, err = shardID(params); err != nil {
			return err
		} else if id == 0 {
			return badRequest{errors.New("parameter id is not the ID of a shard: 0")}
		}
	}
	if err := h.view.Check(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (h *handler) pause(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	return h.setPaused(w, r, true)
}

func (h *handler) resume(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	return h.setPaused(w, r, false)
}

func (h *handler) setPaused(w http.ResponseWriter, r *http.Request, paused bool) error {
	if err := h.view.Pause(r.Context(), paused); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) maxRate(w http.ResponseWriter, r *http.Request, params url.Values) error {
	v, _, err := single(params, "bytes")
	if err != nil {
		return err
	}
	bytes, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		return badRequest{fmt.Errorf("parameter bytes must be a number of bytes a second, 0 for no limit, not %q", v)}
	}
	if err := h.view.SetMaxRate(r.Context(), bytes); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// hidden is in place of a reason that may name series.
const hidden = "the reason may name series: this needs ReadData for the database"

// hide leaves out of a repair what names series or holds values.
func hide(r *entropy.RepairRecord) {
	r.Decided, r.Refusals = nil, nil
	if r.Error != "" {
		r.Error = hidden
	}
}

func (h *handler) repairs(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	all, err := h.view.Repairs(r.Context())
	if err != nil {
		return err
	}
	user, state := h.userOf(r), h.view.State()
	out := api.Repairs{
		Repairs: make([]api.Repair, len(all.Repairs)), Paused: all.Paused, MaxRates: all.MaxRates,
		Unreachable: all.Unreachable,
	}
	for i, r := range all.Repairs {
		if user != nil && !state.MaySee(user, r.Database) {
			hide(&r.RepairRecord)
		}
		out.Repairs[i] = api.Repair{
			ID: strconv.FormatUint(r.ShardID, 10), RepairID: r.RepairRecord.ID(),
			Database: r.Database, RetentionPolicy: r.RetentionPolicy, State: string(r.State), Node: r.Node,
			Owners: append([]string{}, r.RepairRecord.Owners...), Added: nanoseconds(r.Added), Started: nanoseconds(r.Started), Ended: nanoseconds(r.Ended),
			Attempts: r.Attempts, Rounds: r.Rounds, Progress: r.Progress(), Points: r.Points, Conflicts: r.Conflicts, Refused: r.Refused,
			BytesReceived: r.BytesRx, BytesSent: r.BytesTx, Rate: r.Rate, ETA: r.ETA.Seconds(), Error: r.Error,
		}
		out.Repairs[i].Decided = decided(r.Decided)
		for _, f := range r.Refusals {
			out.Repairs[i].Refusals = append(out.Repairs[i].Refusals, api.Refusal(f))
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func decided(of []entropy.Decision) []api.Decided {
	out := make([]api.Decided, len(of))
	for i, d := range of {
		out[i] = api.Decided{
			Series: d.Series, Field: d.Field, Time: strconv.FormatInt(d.Time, 10), Value: d.Value, Reason: d.Why,
			Undecided: d.Open, Held: make([]api.Held, len(d.Held)),
		}
		for k, h := range d.Held {
			held := api.Held{Node: h.Node, Value: h.Value}
			switch {
			case h.Version == patch.Uncertain:
				held.Version = api.BeingWritten
			case h.Version != 0:
				held.Version = order.Version(h.Version).String()
			case h.Bound != 0:
				held.NotAfter = order.Version(h.Bound).Time().UTC().Format(time.RFC3339Nano)
			}
			out[i].Held[k] = held
		}
	}
	return out
}

func nanoseconds(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatInt(t.UnixNano(), 10)
}

func (h *handler) diff(w http.ResponseWriter, r *http.Request, params url.Values) error {
	id, err := shardID(params)
	if err != nil {
		return err
	}
	d, err := h.view.Diff(r.Context(), id)
	if err != nil {
		return err
	}
	out := api.Diff{
		ID: strconv.FormatUint(id, 10), Owners: append([]string{}, d.Owners...), Pairs: make([]api.Pair, len(d.Pairs)), Bytes: d.Bytes,
		Count: d.Count, Series: make([]api.Series, len(d.Fields)), Decided: decided(d.Decided),
		Truncated: d.Truncated, Conflict: d.TypeConflicts, Away: d.Away,
	}
	for i, p := range d.Pairs {
		out.Pairs[i] = api.Pair{A: p.A, B: p.B, MissingA: p.LackingA, MissingB: p.LackingB, Conflicts: p.ValueConflicts}
	}
	for i, f := range d.Fields {
		out.Series[i] = api.Series{
			Series: f.Series, Field: f.Field, Start: strconv.FormatInt(f.Start, 10), End: strconv.FormatInt(f.End, 10),
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
