package routes

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"concord/internal/entropy/api"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/retype"
)

// maxName bounds the names of a measurement and of a field, as the engine's files do.
const maxName = 1<<16 - 1

var resolveParameters = []parameter{
	idParameter,
	{"measurement", "string", true, "name of the measurement"},
	{"field", "string", true, "name of the field"},
	{"type", "string", true, "that the field is to have: float, integer, unsigned, boolean or string"},
}

func (h *handler) resolve(w http.ResponseWriter, r *http.Request, params url.Values) error {
	id, err := shardID(params)
	if err != nil {
		return err
	}
	f, err := typedFieldOf(params)
	if err != nil {
		return err
	}
	owners, err := h.view.Resolve(r.Context(), id, f)
	if err != nil {
		return err
	}
	out := api.Resolved{ID: strconv.FormatUint(id, 10), Owners: make([]api.SetAside, len(owners))}
	for i, o := range owners {
		out.Owners[i] = api.SetAside{Node: o.Node, Points: o.Points, Kept: o.Path}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func typedFieldOf(params url.Values) (f retype.Field, err error) {
	var typ string
	for _, p := range []struct {
		name, what string
		value      *string
	}{
		{"measurement", "the name of a measurement", &f.Measurement},
		{"field", "the name of a field", &f.Name},
		{"type", "float, integer, unsigned, boolean or string", &typ},
	} {
		if *p.value, _, err = single(params, p.name); err != nil {
			return f, err
		} else if *p.value == "" {
			return f, badRequest{fmt.Errorf("parameter %s is missing: %s", p.name, p.what)}
		} else if len(*p.value) > maxName {
			return f, badRequest{fmt.Errorf("parameter %s is too long: %d bytes", p.name, len(*p.value))}
		}
	}
	for t := digest.Float; t <= digest.Unsigned; t++ {
		if t.String() == typ {
			f.Type = t
			return f, nil
		}
	}
	return f, badRequest{fmt.Errorf("parameter type is not float, integer, unsigned, boolean or string: %q", typ)}
}
