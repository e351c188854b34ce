package server

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
)

// audit logs each request of clients, and each change that a node asks for: who asked for what, from where, and what
// came of it. What nodes read all the time is left out.
type audit struct{ log *zap.Logger } // nil for none

// audited is what is known of a request while it is answered. The guard and the routes add to it.
type audited struct {
	user   *cluster.User
	change string // the type of a command for Raft
}

type auditKey struct{}

// noteChange says which command a request is.
func noteChange(r *http.Request, kind string) {
	if a, ok := r.Context().Value(auditKey{}).(*audited); ok {
		a.change = kind
	}
}

// wrap audits a route.
func (a audit) wrap(need access, next http.Handler) http.Handler {
	if a.log == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if need.who == nodes && r.Method == http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		about, began, answer := new(audited), time.Now().UTC(), &answered{ResponseWriter: w, code: http.StatusOK}
		r = r.WithContext(context.WithValue(r.Context(), auditKey{}, about))
		next.ServeHTTP(answer, r)
		who := "anyone"
		name, _, ok := r.BasicAuth()
		switch {
		case about.user != nil:
			who = "user " + about.user.Name
		case ok:
			who = "user " + name + ", not verified"
		case strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "):
			who = "a token"
		case need.who == nodes:
			who = "a node"
		}
		fields := []zap.Field{
			zap.String("who", who), zap.String("method", r.Method), zap.String("path", r.URL.Path),
			zap.String("parameters", parameters(r)), zap.String("from", r.RemoteAddr), zap.Int("status", answer.code),
			zap.Duration("took", time.Since(began)),
		}
		if about.change != "" {
			fields = append(fields, zap.String("change", about.change))
		}
		a.log.Info("Request", fields...)
	})
}

// parameters are those of a request, without secrets. Passwords in JSON are not parameters.
func parameters(r *http.Request) string {
	from := r.Form // once a route has read the body
	if from == nil {
		from = r.URL.Query()
	}
	out := make(url.Values, len(from))
	for key, values := range from {
		lower := strings.ToLower(key)
		for _, secret := range []string{"password", "pwd", "secret", "hash", "token"} {
			if strings.Contains(lower, secret) || lower == "p" {
				values = []string{"[redacted]"}
			}
		}
		out[key] = values
	}
	return out.Encode()
}

// answered keeps the status of an answer.
type answered struct {
	http.ResponseWriter
	code  int
	begun bool
}

// WriteHeader is of http.ResponseWriter.
func (a *answered) WriteHeader(code int) {
	if !a.begun {
		a.code, a.begun = code, true
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write is of http.ResponseWriter.
func (a *answered) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
