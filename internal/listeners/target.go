package listeners

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

// Writer writes points at a consistency level: replication.Writer.
type Writer interface {
	WritePointsPrivileged(
		ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point,
	) error
}

// Metadata is the part of the cluster's metadata that listeners need: client.Client.
type Metadata interface {
	Database(name string) *emeta.DatabaseInfo
	CreateDatabase(name string) (*emeta.DatabaseInfo, error)
	CreateDatabaseWithRetentionPolicy(name string, spec *emeta.RetentionPolicySpec) (*emeta.DatabaseInfo, error)
	CreateRetentionPolicy(
		db string, spec *emeta.RetentionPolicySpec, makeDefault bool,
	) (*emeta.RetentionPolicyInfo, error)
}

// target is where a listener writes. It makes the database and the policy when they do not exist.
type target struct {
	writer   Writer
	meta     Metadata
	database string
	policy   string // the default one of the database when empty
	level    models.ConsistencyLevel
	user     string // as whom the engine counts the points
	stats    *stats
	log      *zap.Logger
}

// write writes a batch. What fails is counted and logged here.
func (t *target) write(points []models.Point) error {
	err := t.exists()
	if err == nil {
		err = t.writer.WritePointsPrivileged(tsdb.WriteContext{UserId: t.user}, t.database, t.policy, t.level, points)
	}
	if err == nil {
		t.stats.add(batchesTx, 1)
		t.stats.add(pointsTx, int64(len(points)))
		return nil
	}
	lost := len(points)
	var partial tsdb.PartialWriteError
	if errors.As(err, &partial) && partial.Dropped < lost {
		lost = partial.Dropped
		t.stats.add(batchesTx, 1)
		t.stats.add(pointsTx, int64(len(points)-lost))
	} else {
		t.stats.add(batchesTxFail, 1)
	}
	t.stats.add(pointsTxFail, int64(lost))
	t.log.Warn("Points of a listener were not written", zap.String("db", t.database), zap.String("policy", t.policy),
		zap.Int("lost", lost), zap.Int("points", len(points)), zap.Error(err))
	return err
}

// named refuses names that line protocol cannot have.
func named(p models.Point) error {
	if len(p.Name()) == 0 {
		return errors.New("a measurement must have a name")
	}
	if bytes.ContainsAny(p.Key(), "\n\r\x00") {
		return fmt.Errorf("name %q: must not have line breaks", p.Key())
	}
	return nil
}

// exists makes the database and the policy, unless this node knows that they exist. An existing database keeps its
// default policy: other clients write to it.
func (t *target) exists() error {
	spec := &emeta.RetentionPolicySpec{Name: t.policy}
	info := t.meta.Database(t.database)
	var err error
	switch {
	case info == nil && t.policy == "":
		_, err = t.meta.CreateDatabase(t.database)
	case info == nil:
		_, err = t.meta.CreateDatabaseWithRetentionPolicy(t.database, spec)
	case t.policy != "" && info.RetentionPolicy(t.policy) == nil:
		_, err = t.meta.CreateRetentionPolicy(t.database, spec, false)
	}
	if err != nil {
		return fmt.Errorf("create the database of the listener: %w", err)
	}
	return nil
}

// The statistics that all listeners have. The names are the engine's, but for pointsTxFail.
const (
	pointsRx        = "pointsRx"        // read
	bytesRx         = "bytesRx"         // read
	pointsParseFail = "pointsParseFail" // packets or lines that are bad
	batchesTx       = "batchesTx"       // written
	pointsTx        = "pointsTx"        // written
	batchesTxFail   = "batchesTxFail"   // not written
	pointsTxFail    = "pointsTxFail"    // not written
)

// stats counts what one listener does.
type stats struct {
	name   string
	tags   models.StatisticTags
	values map[string]*atomic.Int64
}

func newStats(name string, tags map[string]string, names ...string) *stats {
	s := &stats{name: name, tags: tags, values: make(map[string]*atomic.Int64)}
	for _, n := range append(names, batchesTx, pointsTx, batchesTxFail, pointsTxFail) {
		s.values[n] = new(atomic.Int64)
	}
	return s
}

func (s *stats) add(name string, n int64) { s.values[name].Add(n) }

// Statistics are the counters by name.
func (s *stats) Statistics(tags map[string]string) []models.Statistic {
	values := make(map[string]any, len(s.values))
	for name, v := range s.values {
		values[name] = v.Load()
	}
	return []models.Statistic{{Name: s.name, Tags: s.tags.Merge(maps.Clone(tags)), Values: values}}
}
