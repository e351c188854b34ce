package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"concord/internal/meta/wire"
	"concord/internal/protocol"
)

// Reply answers with v as JSON, or with the one-line error: 503 where another attempt may succeed, 500 where a change
// may have been made, else 400.
func Reply(w http.ResponseWriter, v any, err error) {
	code := http.StatusOK
	if err != nil {
		v, code = wire.Error{Error: err.Error()}, http.StatusBadRequest
		if errors.Is(err, errNoLeader) || errors.Is(err, ErrNotInitialised) {
			code = http.StatusServiceUnavailable
		} else if errors.Is(err, errUncertain) {
			code = http.StatusInternalServerError
		}
	}
	replyCode(w, code, v)
}

func replyCode(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// timed is an answer that says what time it is, and whether the leader answers.
type timed struct {
	http.ResponseWriter
	server *Server
	begun  bool
}

// WriteHeader adds the headers of every answer.
func (t *timed) WriteHeader(code int) {
	if !t.begun {
		t.begun = true
		t.Header().Set(protocol.Header, protocol.Own.Text())
		t.Header().Set(wire.ClockHeader, strconv.FormatInt(t.server.deps.Now().UnixNano(), 10))
		if t.server.Leads() {
			t.Header().Set(wire.LeaderHeader, "true")
		}
	}
	t.ResponseWriter.WriteHeader(code)
}

// Write begins the answer if it has not begun.
func (t *timed) Write(b []byte) (int, error) {
	if !t.begun {
		t.WriteHeader(http.StatusOK)
	}
	return t.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (t *timed) Unwrap() http.ResponseWriter { return t.ResponseWriter }
