package cluster

import (
	"fmt"

	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/statement"
)

// CreateDatabase creates a database, with the policy of Spec as its default
// one. Without Spec the policy is autogen, or there is none, and an existing database is left as it is.
type CreateDatabase struct {
	Name      string                    `json:"name"`
	Spec      *meta.RetentionPolicySpec `json:"spec,omitempty"`
	NoAutogen bool                      `json:"no_autogen,omitempty"`
}

// WithoutAutogen returns c so that it makes no policy that nobody asked for.
func WithoutAutogen(c Command) (Command, error) {
	op, err := c.op()
	if err != nil {
		return c, err
	}
	create, ok := op.(CreateDatabase)
	if !ok || create.Spec != nil {
		return c, nil
	}
	create.NoAutogen = true
	return NewCommand(create)
}

func (o CreateDatabase) apply(s *State) (any, error) {
	spec := o.Spec
	if db := s.Data.Database(o.Name); db != nil && spec == nil {
		return nil, nil
	} else if spec == nil {
		spec = &meta.RetentionPolicySpec{}
	}
	if err := checkName(o.Name, meta.ErrDatabaseNameRequired); err != nil {
		return nil, err
	}
	if err := s.Data.CreateDatabase(o.Name); err != nil {
		return nil, err
	}
	if o.NoAutogen {
		return nil, nil
	}
	db := s.Data.Database(o.Name)
	if len(db.RetentionPolicies) == 0 {
		return nil, s.createPolicy(o.Name, spec, true)
	}
	name := spec.NewRetentionPolicyInfo().Name
	if !spec.Matches(db.RetentionPolicy(name)) || db.DefaultRetentionPolicy != name {
		return nil, meta.ErrRetentionPolicyConflict
	}
	return nil, nil
}

// DropDatabase drops a database; a missing one is no error.
type DropDatabase struct {
	Name string `json:"name"`
}

func (o DropDatabase) apply(s *State) (any, error) {
	s.forgetDatabase(o.Name)
	return nil, s.Data.DropDatabase(o.Name)
}

// CreateRetentionPolicy creates a policy; an equal one that exists is no error.
type CreateRetentionPolicy struct {
	Database string                   `json:"database"`
	Spec     meta.RetentionPolicySpec `json:"spec"`
	Default  bool                     `json:"default"`
}

func (o CreateRetentionPolicy) apply(s *State) (any, error) {
	return nil, s.createPolicy(o.Database, &o.Spec, o.Default)
}

// createPolicy gives a policy without an asked-for replication factor the
// default one, and refuses a factor that the data nodes cannot hold.
func (s *State) createPolicy(database string, spec *meta.RetentionPolicySpec, makeDefault bool) error {
	if spec.Duration != nil && *spec.Duration < meta.MinRetentionPolicyDuration && *spec.Duration != 0 {
		return meta.ErrRetentionPolicyDurationTooLow
	}
	rpi := spec.NewRetentionPolicyInfo()
	if err := checkName(rpi.Name, meta.ErrRetentionPolicyNameRequired); err != nil {
		return err
	}
	old, err := s.Data.RetentionPolicy(database, rpi.Name)
	if err != nil {
		return err
	}
	switch {
	case spec.ReplicaN != nil:
		// An identical policy stays fine when data nodes went away since.
		if old == nil || old.ReplicaN != rpi.ReplicaN {
			if err := s.checkReplicaN(rpi.ReplicaN); err != nil {
				return err
			}
		}
	case old != nil:
		rpi.ReplicaN = old.ReplicaN
	default:
		rpi.ReplicaN = s.DefaultReplicaN()
	}
	return s.Data.CreateRetentionPolicy(database, rpi, makeDefault)
}

// DefaultReplicaN is the replication factor of policies that are made without one.
func (s *State) DefaultReplicaN() int {
	switch n := len(s.ActiveDataNodes()); {
	case n == 0:
		return 1
	case n <= 3:
		return n
	default:
		return 2
	}
}

func (s *State) checkReplicaN(n int) error {
	if n < 1 {
		return meta.ErrReplicationFactorTooLow
	} else if active := len(s.ActiveDataNodes()); n > active {
		of := "data nodes"
		if active < len(s.DataNodes) {
			of = "active data nodes"
		}
		return fmt.Errorf("replication factor %d is above the number of %s, %d", n, of, active)
	}
	return nil
}

func checkName(name string, empty error) error {
	if name == "" {
		return empty
	} else if len(name) > meta.MaxNameLen {
		return meta.ErrNameTooLong
	} else if !meta.ValidName(name) { // names become folders
		return meta.ErrInvalidName
	}
	return nil
}

// UpdateRetentionPolicy changes the fields of a policy that Update sets.
type UpdateRetentionPolicy struct {
	Database string                     `json:"database"`
	Name     string                     `json:"name"`
	Update   meta.RetentionPolicyUpdate `json:"update"`
	Default  bool                       `json:"default"`
}

func (o UpdateRetentionPolicy) apply(s *State) (any, error) {
	if o.Update.ReplicaN != nil {
		if err := s.checkReplicaN(*o.Update.ReplicaN); err != nil {
			return nil, err
		}
	}
	if o.Update.Name != nil {
		if err := checkName(*o.Update.Name, meta.ErrRetentionPolicyNameRequired); err != nil {
			return nil, err
		}
	}
	if db := s.Data.Database(o.Database); db != nil && o.Update.Name != nil && db.DefaultRetentionPolicy == o.Name {
		o.Default = true // the default policy stays the default under its new name
	}
	return nil, s.Data.UpdateRetentionPolicy(o.Database, o.Name, &o.Update, o.Default)
}

// inDatabase names a retention policy or a continuous query of a database.
type inDatabase struct {
	Database string `json:"database"`
	Name     string `json:"name"`
}

// DropRetentionPolicy drops a policy; a missing one is no error.
type DropRetentionPolicy inDatabase

func (o DropRetentionPolicy) apply(s *State) (any, error) {
	return nil, s.Data.DropRetentionPolicy(o.Database, o.Name)
}

// CreateContinuousQuery saves a continuous query.
type CreateContinuousQuery struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Query    string `json:"query"`
}

func (o CreateContinuousQuery) check(*State) error {
	// Every data node parses it: one that is too deep, from a backup perhaps, would end them all.
	if err := statement.Peer.Query(o.Query, nil); err != nil {
		return fmt.Errorf("continuous query %s of %s: %w", o.Name, o.Database, err)
	}
	return nil
}

func (o CreateContinuousQuery) apply(s *State) (any, error) {
	s.beginsAnew(ContinuousQuery{o.Database, o.Name})
	return nil, s.Data.CreateContinuousQuery(o.Database, o.Name, o.Query)
}

// DropContinuousQuery removes a continuous query; a missing one is no error.
type DropContinuousQuery inDatabase

func (o DropContinuousQuery) apply(s *State) (any, error) {
	return nil, s.Data.DropContinuousQuery(o.Database, o.Name)
}

// CreateSubscription adds a subscription to a policy.
type CreateSubscription struct {
	Database        string   `json:"database"`
	RetentionPolicy string   `json:"retention-policy"`
	Name            string   `json:"name"`
	Mode            string   `json:"mode"`
	Destinations    []string `json:"destinations"`
}

func (o CreateSubscription) apply(s *State) (any, error) {
	return nil, s.Data.CreateSubscription(o.Database, o.RetentionPolicy, o.Name, o.Mode, o.Destinations)
}

// DropSubscription removes a subscription.
type DropSubscription struct {
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention-policy"`
	Name            string `json:"name"`
}

func (o DropSubscription) apply(s *State) (any, error) {
	return nil, s.Data.DropSubscription(o.Database, o.RetentionPolicy, o.Name)
}
