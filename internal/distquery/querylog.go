package distquery

import (
	"regexp"
	"strconv"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"concord/internal/budget"
)

// QueryLog returns a log for the engine's list of running queries. What the engine says of a slow query gets the field
// request_id: the ID that the client got in the header X-Request-Id. The field query_id is the ID in SHOW QUERIES.
func QueryLog(log *zap.Logger, requests *budget.Requests) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return &queryCore{core, requests} }))
}

// queryCore adds fields to what the engine logs. The engine gives its log no context, so which query a message is of
// has to be found in the message.
type queryCore struct {
	zapcore.Core
	requests *budget.Requests
}

// With is of zapcore.Core.
func (c *queryCore) With(fields []zapcore.Field) zapcore.Core {
	return &queryCore{c.Core.With(fields), c.requests}
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
	if m := slowQuery.FindStringSubmatch(e.Message); m != nil {
		if id, err := strconv.ParseUint(m[1], 10, 64); err == nil {
			fields = append(fields, zap.Uint64("query_id", id))
			if r := c.requests.OfQuery(id); r != nil {
				fields = append(fields, zap.String("request_id", r.ID))
			}
		}
	}
	return c.Core.Write(e, fields)
}

// slowQuery is what the engine says of a slow query, in v1.13.2, with the ID of the query. A test runs a slow query.
// The list of running queries would tell more, but the engine reads it without a lock.
var slowQuery = regexp.MustCompile(
	`(?s)^Detected slow query from .* \(qid: (\d+), database: .*, user: .*, threshold: [^ ]+\)$`)
