package distquery

import (
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/budget"
	"concord/internal/rpc"
)

// Deps is what the parts of this package need that answer questions on one node.
type Deps struct {
	Meta     Metadata
	Store    *tsdb.Store    // of this node
	Pool     *rpc.Pool      // to the other data nodes
	Whole    Whole          // which copies may be read
	Vector   Vector         // how aggregates are answered
	Sketches *Sketches      // that estimate the number of series
	Budget   *budget.Budget // the memory of this node for queries; nil is no limit
	Log      *zap.Logger
}
