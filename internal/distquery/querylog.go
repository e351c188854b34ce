package distquery

import (
	"fmt"
	"strings"

	"github.com/influxdata/influxdb/query"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"concord/internal/budget"
)

// QueryLog returns a log for the engine's list of running queries. What the engine says of a slow query, or of one that
// it ended after query-timeout, gets the field request_id: the ID that the client got in the header X-Request-Id. The
// field query_id is the ID in SHOW QUERIES.
func QueryLog(log *zap.Logger, tasks *query.TaskManager, requests *budget.Requests) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return &queryCore{core, tasks, requests}
	}))
}

// queryCore adds fields to what the engine logs. The engine gives its log no context, so which query a message is of
// has to be found in the message.
type queryCore struct {
	zapcore.Core
	tasks    *query.TaskManager
	requests *budget.Requests
}

// With is of zapcore.Core.
func (c *queryCore) With(fields []zapcore.Field) zapcore.Core {
	return &queryCore{c.Core.With(fields), c.tasks, c.requests}
}

// Check is of zapcore.Core.
func (c *queryCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write is of zapcore.Core.
func (c *queryCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if q, ok := c.find(e, fields); ok {
		fields = append(fields, zap.Uint64("query_id", q.ID))
		if r := c.requests.OfQuery(q.ID); r != nil {
			fields = append(fields, zap.String("request_id", r.ID))
		}
	}
	return c.Core.Write(e, fields)
}

// The engine's messages, in v1.13.2. A test runs a slow query.
const (
	slowPrefix  = "Detected slow query from "
	killMessage = "query killed for exceeding timeout limit"
)

// find returns the running query that a message is of. ok is false when that is not known, and when it may be of
// several.
func (c *queryCore) find(e zapcore.Entry, fields []zapcore.Field) (found query.QueryInfo, ok bool) {
	var is func(query.QueryInfo) bool
	switch {
	case strings.HasPrefix(e.Message, slowPrefix):
		is = func(q query.QueryInfo) bool {
			return e.Message == fmt.Sprintf("%s%s: %s (qid: %d, database: %s, user: %s, threshold: %s)",
				slowPrefix, q.Host, q.Query, q.ID, q.Database, q.User, c.tasks.LogQueriesAfter)
		}
	case e.Message == killMessage:
		text := make(map[string]string)
		for _, f := range fields {
			text[f.Key] = f.String
		}
		is = func(q query.QueryInfo) bool {
			return q.Duration >= c.tasks.QueryTimeout && q.Query == text["query"] && q.Database == text["database"] &&
				q.User == text["user"]
		}
	default:
		return found, false
	}
	for _, q := range c.tasks.Queries() {
		if is(q) {
			if ok {
				return found, false
			}
			found, ok = q, true
		}
	}
	return found, ok
}
