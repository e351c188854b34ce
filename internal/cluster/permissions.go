package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxql"
)

// Permissions is a set of the permissions that InfluxDB Enterprise documents.
type Permissions uint32

// The permissions, in the order in which they are listed. The values are never stored: states have the names.
const (
	ViewAdmin Permissions = 1 << iota
	ViewChronograf
	CreateDatabases
	CreateUserAndRole
	AddRemoveNode
	DropDatabases
	DropData
	ReadData
	WriteData
	Rebalance
	ManageShard
	ManageContinuousQuery
	ManageQuery
	ManageSubscription
	Monitor
	CopyShard
	KapacitorAPI // this one and the next are for Kapacitor, which asks for them
	KapacitorConfigAPI

	allEnd

	// AllPermissions are those of an administrator.
	AllPermissions = allEnd - 1
	// ClusterPermissions are the 16 of the cluster. Who has all of them for all databases may do everything.
	ClusterPermissions = AllPermissions &^ (KapacitorAPI | KapacitorConfigAPI)
	// DatabasePermissions are those that may be given for one database.
	DatabasePermissions = ReadData | WriteData | DropData | ManageContinuousQuery | ManageQuery | ManageSubscription
)

var permissionNames = []string{
	"ViewAdmin", "ViewChronograf", "CreateDatabase", "CreateUserAndRole", "AddRemoveNode", "DropDatabase", "DropData",
	"ReadData", "WriteData", "Rebalance", "ManageShard", "ManageContinuousQuery", "ManageQuery", "ManageSubscription",
	"Monitor", "CopyShard", "KapacitorAPI", "KapacitorConfigAPI",
}

// noPermissions is the name of the empty set, which Chronograf offers, too.
const noPermissions = "NoPermissions"

// ParsePermissions returns the permissions with the given names.
func ParsePermissions(names []string) (p Permissions, err error) {
	for _, n := range names {
		i := slices.Index(permissionNames, n)
		switch {
		case i >= 0:
			p |= 1 << i
		case n != noPermissions:
			return 0, fmt.Errorf("permission %q is unknown: the names are %s", n, strings.Join(permissionNames, ", "))
		}
	}
	return p, nil
}

// Names are the names of the permissions.
func (p Permissions) Names() (names []string) {
	for i, n := range permissionNames {
		if p&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

func (p Permissions) String() string { return strings.Join(p.Names(), ", ") }

// MarshalJSON writes the names.
func (p Permissions) MarshalJSON() ([]byte, error) {
	names := p.Names()
	if names == nil {
		names = []string{}
	}
	return json.Marshal(names)
}

// UnmarshalJSON reads names.
func (p *Permissions) UnmarshalJSON(b []byte) (err error) {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	*p, err = ParsePermissions(names)
	return err
}

// Grants are permissions by database; those of "" are for all databases and for the cluster. They are never changed,
// only replaced.
type Grants map[string]Permissions

// Add returns all permissions of g and of more.
func (g Grants) Add(more Grants) Grants {
	out := make(Grants, len(g)+len(more))
	for db, p := range g {
		out[db] = p
	}
	for db, p := range more {
		out[db] |= p
	}
	return out
}

// Remove returns the permissions of g that less does not have.
func (g Grants) Remove(less Grants) Grants {
	out := make(Grants, len(g))
	for db, p := range g {
		if p &^= less[db]; p != 0 {
			out[db] = p
		}
	}
	return out
}

// Has reports whether the grants have all of p for a database, or for the cluster if that is "".
func (g Grants) Has(p Permissions, database string) bool { return (g[""]|g[database])&p == p }

// checkGrants returns what of the grants may not be given.
func (s *State) checkGrants(g Grants) error {
	for _, db := range slices.Sorted(maps.Keys(g)) {
		if db == "" {
			continue
		}
		if extra := g[db] &^ DatabasePermissions; extra != 0 {
			return fmt.Errorf("permission %s cannot be given for one database: give it for \"\", which is all, or one of %s",
				extra, DatabasePermissions)
		}
		if s.Data.Database(db) == nil {
			return influxdb.ErrDatabaseNotFound(db)
		}
	}
	return nil
}

// What the metadata of the engine knows are administrators, and reading and writing of databases. It has these for
// users, so that its statements show and change them. grantsOf and split translate.

// grantsOf are all grants of a user or of a role: what the engine knows, and the rest.
func grantsOf(admin bool, privileges map[string]influxql.Privilege, rest Grants) Grants {
	out := make(Grants, len(privileges)+len(rest)+1)
	if admin {
		out[""] = AllPermissions
	}
	for db, p := range privileges {
		if q := ofPrivilege(p); q != 0 {
			out[db] = q
		}
	}
	return out.Add(rest)
}

func ofPrivilege(p influxql.Privilege) Permissions {
	switch p {
	case influxql.ReadPrivilege:
		return ReadData
	case influxql.WritePrivilege:
		return WriteData
	case influxql.AllPrivileges:
		return ReadData | WriteData
	}
	return 0
}

// split is the reverse of grantsOf.
func (g Grants) split() (admin bool, privileges map[string]influxql.Privilege, rest Grants) {
	for db, p := range g {
		switch {
		case db == "" && p == AllPermissions:
			admin, p = true, 0
		case db == "":
		case p&(ReadData|WriteData) != 0:
			if privileges == nil {
				privileges = make(map[string]influxql.Privilege)
			}
			switch p & (ReadData | WriteData) {
			case ReadData:
				privileges[db] = influxql.ReadPrivilege
			case WriteData:
				privileges[db] = influxql.WritePrivilege
			default:
				privileges[db] = influxql.AllPrivileges
			}
			p &^= ReadData | WriteData
		}
		if p != 0 {
			if rest == nil {
				rest = make(Grants)
			}
			rest[db] = p
		}
	}
	return admin, privileges, rest
}

// without returns the grants without those of a database, nil for none.
func (g Grants) without(database string) Grants {
	out := g.Remove(Grants{database: AllPermissions})
	if len(out) == 0 {
		return nil
	}
	return out
}
