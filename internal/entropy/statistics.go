package entropy

import (
	"sync/atomic"

	"go.uber.org/zap"
)

// Report is where the parts of a node's service say what happened: the log, and the statistics of the measurement ae.
type Report struct {
	Log *zap.Logger

	BytesRx, BytesTx, Errors, Jobs, JobsActive, Checks, PointsRepaired atomic.Int64

	Conflicts         atomic.Int64 // points of which owners had different values, decided
	RepairsInConflict atomic.Int64 // repairs that ended with points that an owner refuses
}

// Fail logs and counts that something about a shard failed.
func (r *Report) Fail(msg string, shard uint64, err error) {
	r.Errors.Add(1)
	r.Log.Warn(msg, zap.Uint64("db_shard_id", shard), zap.Error(err))
}

// Values are the statistics by their names.
func (r *Report) Values() map[string]any {
	return map[string]any{
		"bytesRx":           r.BytesRx.Load(),
		"bytesTx":           r.BytesTx.Load(),
		"errors":            r.Errors.Load(),
		"jobs":              r.Jobs.Load(),
		"jobsActive":        r.JobsActive.Load(),
		"checks":            r.Checks.Load(),
		"pointsRepaired":    r.PointsRepaired.Load(),
		"conflicts":         r.Conflicts.Load(),
		"repairsInConflict": r.RepairsInConflict.Load(),
	}
}
