package client

import (
	"errors"

	"github.com/influxdata/influxdb"
	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
)

// databases has databases, retention policies, continuous queries and subscriptions, as the engine asks for them and
// changes them.
type databases struct {
	engine    engine
	refresher *refresher
	sender    *sender
}

// Database returns a database, nil for one that the leader does not know either.
func (d *databases) Database(name string) *emeta.DatabaseInfo {
	return known(d.refresher, func() *emeta.DatabaseInfo { return d.engine.Database(name) })
}

// RetentionPolicy returns a policy, nil for one that the leader does not know either.
func (d *databases) RetentionPolicy(database, name string) (*emeta.RetentionPolicyInfo, error) {
	rpi, err := d.engine.RetentionPolicy(database, name)
	if rpi != nil || d.refresher.Refresh() != nil {
		return rpi, err
	}
	return d.engine.RetentionPolicy(database, name)
}

// CreateDatabase creates a database with the default policy, or returns the one that exists.
func (d *databases) CreateDatabase(name string) (*emeta.DatabaseInfo, error) {
	return d.created(name, d.sender.Execute(cluster.CreateDatabase{Name: name}))
}

// CreateDatabaseWithRetentionPolicy creates a database with a default policy.
func (d *databases) CreateDatabaseWithRetentionPolicy(
	name string, spec *emeta.RetentionPolicySpec,
) (*emeta.DatabaseInfo, error) {
	if spec == nil {
		return nil, errors.New("CreateDatabaseWithRetentionPolicy called with nil spec")
	}
	return d.created(name, d.sender.Execute(cluster.CreateDatabase{Name: name, Spec: spec}))
}

// created returns the database that a change made, unless the change failed.
func (d *databases) created(name string, err error) (*emeta.DatabaseInfo, error) {
	if err != nil {
		return nil, err
	}
	if db := d.engine.Database(name); db != nil {
		return db, nil
	}
	return nil, influxdb.ErrDatabaseNotFound(name) // it was dropped in the meantime
}

// DropDatabase drops a database.
func (d *databases) DropDatabase(name string) error {
	return d.sender.Execute(cluster.DropDatabase{Name: name})
}

// CreateRetentionPolicy creates a policy.
func (d *databases) CreateRetentionPolicy(
	database string, spec *emeta.RetentionPolicySpec, makeDefault bool,
) (*emeta.RetentionPolicyInfo, error) {
	op := cluster.CreateRetentionPolicy{Database: database, Spec: *spec, Default: makeDefault}
	if err := d.sender.Execute(op); err != nil {
		return nil, err
	}
	name := spec.NewRetentionPolicyInfo().Name
	rpi, err := d.engine.RetentionPolicy(database, name)
	if err == nil && rpi == nil {
		err = influxdb.ErrRetentionPolicyNotFound(name)
	}
	return rpi, err
}

// UpdateRetentionPolicy changes a policy.
func (d *databases) UpdateRetentionPolicy(
	database, name string, update *emeta.RetentionPolicyUpdate, makeDefault bool,
) error {
	return d.sender.Execute(cluster.UpdateRetentionPolicy{
		Database: database, Name: name, Update: *update, Default: makeDefault,
	})
}

// DropRetentionPolicy drops a policy.
func (d *databases) DropRetentionPolicy(database, name string) error {
	return d.sender.Execute(cluster.DropRetentionPolicy{Database: database, Name: name})
}

// CreateContinuousQuery saves a continuous query.
func (d *databases) CreateContinuousQuery(database, name, query string) error {
	return d.sender.Execute(cluster.CreateContinuousQuery{Database: database, Name: name, Query: query})
}

// DropContinuousQuery removes a continuous query.
func (d *databases) DropContinuousQuery(database, name string) error {
	return d.sender.Execute(cluster.DropContinuousQuery{Database: database, Name: name})
}

// CreateSubscription adds a subscription.
func (d *databases) CreateSubscription(database, rp, name, mode string, destinations []string) error {
	return d.sender.Execute(cluster.CreateSubscription{
		Database: database, RetentionPolicy: rp, Name: name, Mode: mode, Destinations: destinations,
	})
}

// DropSubscription removes a subscription.
func (d *databases) DropSubscription(database, rp, name string) error {
	return d.sender.Execute(cluster.DropSubscription{Database: database, RetentionPolicy: rp, Name: name})
}
