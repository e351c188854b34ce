package firststart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/durable"
)

// Metadata is a data node's view of the cluster, as meta/client.Client has it.
type Metadata interface {
	NodeID() uint64 // 0 without a cluster
	MetaServers() []string
	Refresh() error // brings what follows up to date
	Databases() []emeta.DatabaseInfo
	UserCount() int
	CreateDatabase(name string) (*emeta.DatabaseInfo, error)
	CreateDatabaseWithRetentionPolicy(name string, spec *emeta.RetentionPolicySpec) (*emeta.DatabaseInfo, error)
	CreateUser(name, password string, admin bool) (emeta.User, error)
	SetPrivilege(user, database string, p influxql.Privilege) error
}

// Data is the first start of a data node.
//
// What is left to do is in a file, so that a crash in the middle leaves nothing half done. Only an empty cluster gets
// databases and users, so that a node that is added later brings nothing back that was dropped. Several nodes may do
// this at the same time, with the same variables: each step does nothing where another node has done it.
type Data struct {
	Plan  Plan
	Addr  string // TCP address of this node
	Dir   string // of the file
	Auth  bool   // clients must log in, so that users make sense
	Meta  Metadata
	Ask   Ask
	Log   *zap.Logger
	Pause time.Duration // between two attempts; 0 for a second
}

const (
	progressFile = "first-start"
	wanted       = "wanted" // the node has not looked yet whether the cluster is empty
	begun        = "begun"  // the cluster was empty, and gets what the plan says
)

// Run returns when all is done, or when ctx ends. It may be called for a node that is in a cluster: then it only
// finishes what an earlier process began.
func (d Data) Run(ctx context.Context) {
	if d.Pause == 0 {
		d.Pause = pause
	}
	if len(d.Plan.Setup.accounts()) > 0 && !d.Auth {
		d.Log.Warn("The users of INFLUXDB_ADMIN_USER and others are not made: [http] auth-enabled is false")
	}
	if err := d.start(ctx); err != nil && ctx.Err() == nil {
		d.Log.Error("What the environment asks of the first start is not done", zap.Error(err))
	}
}

func (d Data) start(ctx context.Context) error {
	if d.Meta.NodeID() == 0 {
		if d.leftToDo() {
			if err := d.note(wanted); err != nil {
				return err
			}
		}
		if len(d.Plan.Join) > 0 {
			if err := retry(ctx, d.Log, d.Pause, "Waiting to join a cluster", d.join); err != nil {
				return err
			}
			d.Log.Info("Joined the cluster that INFLUXDB_JOIN names")
		}
	}
	if stage, err := d.noted(); stage == "" || err != nil {
		return err
	}
	return retry(ctx, d.Log, d.Pause, "Waiting to set up the cluster", d.setUp)
}

// leftToDo reports whether there is anything to do after this node joined.
func (d Data) leftToDo() bool {
	s := d.Plan.Setup
	return len(d.Plan.Labels) > 0 || s.Database != "" || d.Auth && len(s.accounts()) > 0
}

// join makes one attempt to join.
func (d Data) join(ctx context.Context) error {
	if d.Meta.NodeID() != 0 {
		return nil
	}
	return d.askAny(ctx, d.Plan.Join, "/add-data", url.Values{"addr": {d.Addr}})
}

// askAny posts to one meta node after the other, until one does it.
func (d Data) askAny(ctx context.Context, servers []string, path string, params url.Values) error {
	var errs []error
	for _, addr := range servers {
		_, err := d.Ask(ctx, http.MethodPost, addr, path, params)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return oneLine(errs)
}

// setUp makes one attempt to do what is left once this node is a member.
func (d Data) setUp(ctx context.Context) error {
	if d.Meta.NodeID() == 0 {
		return errors.New("this data node is in no cluster yet")
	}
	if err := d.label(ctx); err != nil {
		return err
	}
	if err := d.Meta.Refresh(); err != nil {
		return err
	}
	stage, err := d.noted()
	if err != nil {
		return err
	}
	if stage == begun || d.empty() {
		if err := d.note(begun); err != nil {
			return err
		}
		if err := d.create(); err != nil {
			return err
		}
	}
	return os.Remove(d.file())
}

// label gives this node the labels of the plan.
func (d Data) label(ctx context.Context) error {
	if len(d.Plan.Labels) == 0 {
		return nil
	}
	set, err := json.Marshal(d.Plan.Labels)
	if err != nil {
		return err
	}
	return d.askAny(ctx, d.Meta.MetaServers(), "/node-labels", url.Values{"node": {d.Addr}, "set": {string(set)}})
}

// empty reports whether the cluster has neither users nor databases, but for the one of its own statistics.
func (d Data) empty() bool {
	for _, db := range d.Meta.Databases() {
		if db.Name != "_internal" {
			return false
		}
	}
	return d.Meta.UserCount() == 0
}

// create makes the database and the users. It may be repeated.
func (d Data) create() error {
	s := d.Plan.Setup
	if s.Database != "" {
		if err := d.createDatabase(s.Database, s.Replicas); err != nil {
			return fmt.Errorf("INFLUXDB_DB: %w", err)
		}
	}
	if !d.Auth {
		return nil
	}
	for _, a := range s.accounts() {
		_, err := d.Meta.CreateUser(a.Name, a.Password, a.admin)
		if err != nil && !errors.Is(err, emeta.ErrUserExists) {
			return fmt.Errorf("create user %s: %w", a.Name, err)
		}
		if a.admin || s.Database == "" {
			continue
		}
		if err := d.Meta.SetPrivilege(a.Name, s.Database, a.privilege); err != nil {
			return fmt.Errorf("grant privileges to %s: %w", a.Name, err)
		}
	}
	return nil
}

func (d Data) createDatabase(name string, replicas int) (err error) {
	if replicas == 0 {
		_, err = d.Meta.CreateDatabase(name)
	} else {
		_, err = d.Meta.CreateDatabaseWithRetentionPolicy(name, &emeta.RetentionPolicySpec{ReplicaN: &replicas})
	}
	return err
}

// account is an Account with its rights.
type account struct {
	Account
	admin     bool
	privilege influxql.Privilege
}

// accounts are the users to create. There are none without an administrator, as with the images of InfluxDB.
func (s Setup) accounts() []account {
	if s.Admin.Name == "" {
		return nil
	}
	var out []account
	for _, a := range []account{
		{s.Admin, true, influxql.AllPrivileges}, {s.User, false, influxql.AllPrivileges},
		{s.Reader, false, influxql.ReadPrivilege}, {s.Writer, false, influxql.WritePrivilege},
	} {
		if a.Name != "" {
			out = append(out, a)
		}
	}
	return out
}

func (d Data) file() string { return filepath.Join(d.Dir, progressFile) }

func (d Data) note(stage string) error { return durable.WriteFile(d.file(), []byte(stage), 0o600) }

// noted is how far an earlier process or attempt came; it is empty when there is nothing to do.
func (d Data) noted() (string, error) {
	b, err := os.ReadFile(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}
