package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// serveExecute commits a change that a data node sends.
func (a *API) serveExecute(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var c cluster.Command
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		Reply(w, nil, errors.New("command: "+err.Error()))
		return
	}
	noteChange(r, c.Type)
	result, index, err := a.server.apply(c)
	if errors.Is(err, ErrNotInitialised) || errors.Is(err, errNoLeader) || errors.Is(err, errUncertain) {
		Reply(w, nil, err)
		return
	}
	e := wire.Execution{Result: result, Index: index}
	if err != nil {
		e = wire.Execution{Error: err.Error(), Index: index}
	}
	Reply(w, e, nil)
}
