package client

import (
	"errors"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/ldap"
	"concord/internal/meta/password"
	"concord/internal/meta/passwordhash"
)

// users has users and their privileges, as the engine asks for them and changes them, and checks passwords.
type users struct {
	engine    engine
	copied    *stateCopy
	refresher *refresher
	sender    *sender
	passwords *password.Checker
	hash      passwordhash.Kind // of new passwords
	ldap      *ldap.Users
}

// UserInfo returns a user with the grants of its roles, nil for one that the leader does not know either. While LDAP is
// on, its servers know the users.
func (u *users) UserInfo(name string) *cluster.User {
	if u.ldap.On() {
		return u.ldap.User(name)
	}
	return known(u.refresher, func() *cluster.User { return u.copied.State().User(name) })
}

// UserPrivileges returns the privileges of a user by database, without those of its roles.
func (u *users) UserPrivileges(name string) (map[string]influxql.Privilege, error) {
	p, err := u.engine.UserPrivileges(name)
	if err == nil || u.refresher.Refresh() != nil {
		return p, err
	}
	return u.engine.UserPrivileges(name)
}

// AdminUserExists reports whether clients must log in: somebody may do more than read and write single databases, or
// LDAP is on.
func (u *users) AdminUserExists() bool {
	exists := func() bool { return u.copied.State().LDAPOn() || u.copied.State().AdminExists() }
	return exists() || u.refresher.Refresh() == nil && exists()
}

// CreateUser adds a user; an equal one that exists is returned.
func (u *users) CreateUser(name, given string, admin bool) (emeta.User, error) {
	hash, err := u.hash.Of(given)
	if err != nil {
		return nil, err
	}
	err = u.sender.Execute(cluster.CreateUser{Name: name, Hash: hash, Admin: admin})
	if err != nil && !errors.Is(err, emeta.ErrUserExists) {
		return nil, err
	}
	user := u.copied.State().User(name)
	switch {
	case user == nil:
		return nil, emeta.ErrUserNotFound // it was dropped in the meantime
	case err != nil && (user.Admin != admin || !passwordhash.Match(user.Hash, given)):
		return nil, err
	}
	return user, nil
}

// UpdateUser changes a password.
func (u *users) UpdateUser(name, given string) error {
	hash, err := u.hash.Of(given)
	if err != nil {
		return err
	}
	return u.sender.Execute(cluster.UpdateUser{Name: name, Hash: hash})
}

// DropUser removes a user.
func (u *users) DropUser(name string) error { return u.sender.Execute(cluster.DropUser{Name: name}) }

// SetPrivilege sets what a user may do with a database.
func (u *users) SetPrivilege(username, database string, p influxql.Privilege) error {
	return u.sender.Execute(cluster.SetPrivilege{User: username, Database: database, Privilege: p})
}

// SetAdminPrivilege makes a user an administrator, or no longer one.
func (u *users) SetAdminPrivilege(username string, admin bool) error {
	return u.sender.Execute(cluster.SetAdminPrivilege{User: username, Admin: admin})
}

// Authenticate checks a password: against the user's current hash, or while LDAP is on, with its servers. Another node
// may have made the user or changed the password a moment ago, so the leader is asked before a password is refused.
// Both are done for users that are not there, too, so that the time of an answer does not tell which there are.
func (u *users) Authenticate(username, password string) (emeta.User, error) {
	if u.ldap.On() {
		user, err := u.ldap.Authenticate(username, password)
		if err != nil {
			return nil, err
		}
		return user, nil
	}
	check := func() (*cluster.User, error) {
		st := u.copied.State()
		user := st.User(username)
		return user, u.passwords.Check(st.AllUsers(), user.Info(), username, password)
	}
	user, err := check()
	if refused(err) && u.refresher.Refresh() == nil && changed(user, u.copied.State().User(username)) {
		user, err = check()
	}
	if err != nil {
		return nil, err
	}
	return user, nil
}

// refused reports whether a password was compared, and is not the right one.
func refused(err error) bool {
	return errors.Is(err, emeta.ErrUserNotFound) || errors.Is(err, emeta.ErrAuthenticate)
}

// changed reports whether a password that one user was refused for may be that of the other.
func changed(from, to *cluster.User) bool {
	return to != nil && (from == nil || from.Hash != to.Hash)
}

// User returns a user, with the grants of its roles.
func (u *users) User(name string) (emeta.User, error) {
	if user := u.UserInfo(name); user != nil {
		return user, nil
	}
	return nil, emeta.ErrUserNotFound
}
