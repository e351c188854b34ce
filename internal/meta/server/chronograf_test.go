package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"
	"github.com/google/go-cmp/cmp"
	itoml "github.com/influxdata/influxdb/toml"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/metanode"
)

// chronograf asks a meta node for users and roles as Chronograf does: the same requests in the same order, also those
// that change nothing, and it takes no other answer than Chronograf takes. It knows the leader once it was sent there.
type chronograf struct {
	t         *testing.T
	meta      string // host:port, which the administrator has given
	leader    string
	authorize func(*http.Request)
}

// What Chronograf sends and reads.
type (
	chronoPermissions map[string][]string
	chronoUser        struct {
		Name        string            `json:"name"`
		Password    string            `json:"password,omitempty"`
		Permissions chronoPermissions `json:"permissions,omitempty"`
	}
	chronoRole struct {
		Name        string            `json:"name"`
		NewName     string            `json:"newName,omitempty"`
		Permissions chronoPermissions `json:"permissions,omitempty"`
		Users       []string          `json:"users,omitempty"`
	}
)

// do sends a request. Any answer but 200 is an error with the text of its field error.
func (c *chronograf) do(method, path string, params url.Values, body, out any) error {
	u := url.URL{Scheme: "http", Host: c.meta, Path: path, RawQuery: params.Encode()}
	if c.leader != "" {
		u.Host = c.leader
	}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(metatest.Context(c.t), method, u.String(), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	c.authorize(req)
	client := http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		c.leader = req.URL.Host
		if len(via) >= 10 {
			return errors.New("too many redirects")
		}
		req.Header["Authorization"] = via[0].Header["Authorization"]
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var refused struct {
			Error string `json:"error"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil {
			return err
		}
		return errors.New(refused.Error)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func (c *chronograf) changeUser(action string, u chronoUser) error {
	return c.do("POST", "/user", nil, map[string]any{"action": action, "user": u}, nil)
}

func (c *chronograf) changeRole(action string, r chronoRole) error {
	return c.do("POST", "/role", nil, map[string]any{"action": action, "role": r}, nil)
}

func (c *chronograf) user(name string) (chronoUser, error) {
	var all struct{ Users []chronoUser }
	if err := c.do("GET", "/user", url.Values{"name": {name}}, nil, &all); err != nil {
		return chronoUser{}, err
	} else if len(all.Users) == 0 {
		return chronoUser{}, errors.New("no user found")
	}
	return all.Users[0], nil
}

func (c *chronograf) roles(params url.Values) (roles []chronoRole, err error) {
	var all struct{ Roles []chronoRole }
	err = c.do("GET", "/role", params, nil, &all)
	return all.Roles, err
}

func (c *chronograf) role(name string) (chronoRole, error) {
	roles, err := c.roles(url.Values{"name": {name}})
	if err == nil && len(roles) == 0 {
		err = errors.New("no role found")
	}
	if err != nil {
		return chronoRole{}, err
	}
	return roles[0], nil
}

// difference is what is to be removed and what is to be added; where nothing is, Chronograf sends null.
func difference(want, have []string) (remove, add []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			add = append(add, w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			remove = append(remove, h)
		}
	}
	return remove, add
}

func permissionsDifference(want, have chronoPermissions) (remove, add chronoPermissions) {
	remove, add = make(chronoPermissions), make(chronoPermissions)
	for scope, w := range want {
		if h, ok := have[scope]; ok {
			remove[scope], add[scope] = difference(w, h)
		} else {
			add[scope] = w
		}
	}
	for scope, h := range have {
		if _, ok := want[scope]; !ok {
			remove[scope] = h
		}
	}
	return remove, add
}

func (c *chronograf) setUserPermissions(name string, want chronoPermissions) error {
	u, err := c.user(name)
	if err != nil {
		return err
	}
	remove, add := permissionsDifference(want, u.Permissions)
	if len(remove) > 0 {
		if err := c.changeUser("remove-permissions", chronoUser{Name: name, Permissions: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		return c.changeUser("add-permissions", chronoUser{Name: name, Permissions: add})
	}
	return nil
}

func (c *chronograf) setRolePermissions(name string, want chronoPermissions) error {
	r, err := c.role(name)
	if err != nil {
		return err
	}
	remove, add := permissionsDifference(want, r.Permissions)
	if len(remove) > 0 {
		if err := c.changeRole("remove-permissions", chronoRole{Name: name, Permissions: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		return c.changeRole("add-permissions", chronoRole{Name: name, Permissions: add})
	}
	return nil
}

func (c *chronograf) setRoleUsers(name string, want []string) error {
	r, err := c.role(name)
	if err != nil {
		return err
	}
	remove, add := difference(want, r.Users)
	if len(remove) > 0 {
		if err := c.changeRole("remove-users", chronoRole{Name: name, Users: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		return c.changeRole("add-users", chronoRole{Name: name, Users: add})
	}
	return nil
}

// rolesOf are the names of the roles that a user has.
func (c *chronograf) rolesOf(name string) (names []string, err error) {
	roles, err := c.roles(nil)
	for _, r := range roles {
		if slices.Contains(r.Users, name) {
			names = append(names, r.Name)
		}
	}
	return names, err
}

// addUser is the form "Create user".
func (c *chronograf) addUser(u chronoUser, roles ...string) error {
	if err := c.changeUser("create", chronoUser{Name: u.Name, Password: u.Password}); err != nil {
		return err
	}
	var err error
	metatest.Until(c.t, func() bool { // Chronograf tries again for two seconds, but only while this is the error
		_, err = c.user(u.Name)
		return err == nil || err.Error() != "user not found"
	})
	if err != nil {
		return err
	}
	if len(u.Permissions) > 0 {
		if err := c.setUserPermissions(u.Name, u.Permissions); err != nil {
			return err
		}
	}
	return c.setRolesOf(u.Name, roles)
}

// setRolesOf is the list of roles of a user.
func (c *chronograf) setRolesOf(name string, want []string) error {
	have, err := c.rolesOf(name)
	if err != nil {
		return err
	}
	remove, add := difference(want, have)
	for _, r := range add {
		if err := c.changeRole("add-users", chronoRole{Name: r, Users: []string{name}}); err != nil {
			return err
		}
	}
	for _, r := range remove {
		if err := c.changeRole("remove-users", chronoRole{Name: r, Users: []string{name}}); err != nil {
			return err
		}
	}
	return nil
}

// addRole is the form "Create role".
func (c *chronograf) addRole(r chronoRole) error {
	if err := c.changeRole("create", chronoRole{Name: r.Name}); err != nil {
		return err
	}
	if err := c.setRolePermissions(r.Name, r.Permissions); err != nil {
		return err
	}
	return c.setRoleUsers(r.Name, r.Users)
}

// Chronograf is given a meta node that does not lead, and logs in with a password, or with tokens that it signs.
func TestChronografManagesUsersAndRoles(t *testing.T) {
	t.Parallel()
	const tokens = "the secret of tokens"
	var nodes []*metatest.Meta
	for range 3 {
		m := metatest.Start(t, func(d *metanode.Deps) {
			const long = itoml.Duration(2 * time.Second) // the leader is to stay, also on a busy machine
			d.Config.Meta.HeartbeatTimeout, d.Config.Meta.ElectionTimeout = long, long
			d.Config.Meta.LeaderLeaseTimeout = long
			d.Config.Meta.AuthEnabled, d.Config.Meta.InternalSharedSecret = true, "between nodes"
			d.Config.Meta.SharedSecret = tokens
		})
		nodes = append(nodes, m)
		_, err := nodes[0].AddMeta(metatest.Context(t), m.HTTPAddr())
		metatest.OK(t, err)
	}
	leader := metatest.LeaderOf(t, nodes)
	_, err := leader.Execute(cluster.CreateDatabase{Name: "telegraf"})
	metatest.OK(t, err, server.ChangeUser(leader.Server, "create", wire.User{
		Name: "root", Password: "pw", Permissions: map[string][]string{"": cluster.AllPermissions.Names()},
	}))
	metatest.Await(t, nodes, func(s *cluster.State) bool { return s.User("root") != nil })
	follower := metatest.Others(nodes, leader)[0].HTTPAddr()
	for name, authorize := range map[string]func(*http.Request){
		"password": func(r *http.Request) { r.SetBasicAuth("root", "pw") },
		"token": func(r *http.Request) {
			claims := jwt.MapClaims{"username": "root", "exp": time.Now().Add(time.Minute).Unix()}
			signed, err := jwt.NewWithClaims(jwt.SigningMethodHS512, claims).SignedString([]byte(tokens))
			if err != nil {
				t.Error(err)
			}
			r.Header.Set("Authorization", "Bearer "+signed)
		},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: both make all roles
			c := &chronograf{t: t, meta: follower, authorize: authorize}
			c.testRoles()
			c.testUsers()
			if c.leader != leader.HTTPAddr() {
				t.Errorf("the leader is %s, and Chronograf was sent to %q", leader.HTTPAddr(), c.leader)
			}
		})
	}
}

func (c *chronograf) testRoles() {
	t := c.t
	reader := chronoRole{Name: "reader", Permissions: chronoPermissions{"": {"ReadData"}, "telegraf": {"WriteData"}}}
	nothing := chronoRole{Name: "nothing", Permissions: chronoPermissions{"": {"NoPermissions"}}}
	metatest.OK(t, c.addRole(reader), c.addRole(nothing))
	if got, err := c.role("reader"); err != nil || !cmp.Equal(reader, got) {
		t.Errorf("the new role: %v %s", err, cmp.Diff(reader, got))
	}
	if err := c.addRole(reader); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("a second role of the name: %v", err)
	}
	if _, err := c.role("nobody"); err == nil || err.Error() != "role not found" {
		t.Errorf("a role that is not there: %v", err)
	}
	// One scope changes, one goes, and one stays as it is.
	want := chronoPermissions{"": {"ReadData", "Monitor"}}
	metatest.OK(t, c.setRolePermissions("reader", want), c.setRolePermissions("reader", want))
	if got, err := c.role("reader"); err != nil || !cmp.Equal(want, got.Permissions) {
		t.Errorf("other permissions of the role: %v %s", err, cmp.Diff(want, got.Permissions))
	}
	metatest.OK(t, c.setRolePermissions("reader", reader.Permissions))
}

func (c *chronograf) testUsers() {
	t := c.t
	paul := chronoUser{
		Name: "paul", Permissions: chronoPermissions{"": {"Monitor"}, "telegraf": {"ReadData", "DropData"}},
	}
	if _, err := c.user("paul"); err == nil || err.Error() != "user not found" {
		t.Errorf("a user that is not there: %v", err)
	}
	withPassword := paul
	withPassword.Password = "first"
	metatest.OK(t, c.addUser(withPassword, "reader", "nothing"))
	slices.Sort(paul.Permissions["telegraf"])
	got, err := c.user("paul")
	slices.Sort(got.Permissions["telegraf"])
	if err != nil || !cmp.Equal(paul, got) {
		t.Errorf("the new user: %v %s", err, cmp.Diff(paul, got))
	}
	check := func(what string, want ...string) {
		t.Helper()
		if got, err := c.rolesOf("paul"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: roles %v, %v, want %v", what, got, err, want)
		}
	}
	check("after the form", "nothing", "reader")
	metatest.OK(t, c.setRolesOf("paul", []string{"reader"}))
	check("with fewer roles", "reader")
	metatest.OK(t, c.changeUser("change-password", chronoUser{Name: "paul", Password: "second"}))
	for password, want := range map[string]string{
		"first": "authentication failed", "second": "permission CreateUserAndRole",
	} {
		own := &chronograf{t: t, meta: c.leader, authorize: func(r *http.Request) { r.SetBasicAuth("paul", password) }}
		if _, err := own.user("paul"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with the %s password: %v, want %q", password, err, want)
		}
	}
	metatest.OK(t, c.changeUser("delete", chronoUser{Name: "paul"}))
	check("after the user was deleted")
	for _, r := range []string{"nothing", "reader"} {
		metatest.OK(t, c.changeRole("delete", chronoRole{Name: r}))
	}
	roles, err := c.roles(nil)
	if err != nil || len(roles) != 0 {
		t.Errorf("roles are left: %v %v", roles, err)
	}
	if err := c.changeRole("delete", chronoRole{Name: "reader"}); err == nil || err.Error() != "role not found" {
		t.Errorf("a second delete: %v", err)
	}
}
