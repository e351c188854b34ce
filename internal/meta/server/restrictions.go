package server

import (
	"encoding/json"
	"net/http"

	"concord/internal/cluster"
	"concord/internal/restrict"
)

// restrictionRoutes are the routes of fine-grained authorization.
type restrictionRoutes struct {
	state   func() *cluster.State
	execute func(cluster.Op) (any, error)
}

const (
	restrictionsPath = "/influxdb/v2/acl/restrictions"
	grantsPath       = "/influxdb/v2/acl/grants"
)

func (a *restrictionRoutes) routes(r router) {
	r.local("GET "+restrictionsPath, admin, func(w http.ResponseWriter, _ *http.Request) {
		list := append([]restrict.Restriction{}, a.state().Restrictions...)
		Reply(w, map[string][]restrict.Restriction{"restrictions": list}, nil)
	})
	r.change("POST "+restrictionsPath, admin, func(req *http.Request) (any, error) {
		rule, err := restrict.ParseRestriction(req.Body)
		if err != nil {
			return nil, err
		}
		return a.do(cluster.CreateRestriction{Restriction: rule})
	})
	r.change("DELETE "+restrictionsPath+"/{id}", admin, func(req *http.Request) (any, error) {
		return a.drop(cluster.DropRestriction{ID: req.PathValue("id")})
	})
	r.local("GET "+grantsPath, admin, func(w http.ResponseWriter, _ *http.Request) {
		Reply(w, map[string][]restrict.Grant{"grants": append([]restrict.Grant{}, a.state().FineGrants...)}, nil)
	})
	r.change("POST "+grantsPath, admin, func(req *http.Request) (any, error) {
		grant, err := restrict.ParseGrant(req.Body)
		if err != nil {
			return nil, err
		}
		return a.do(cluster.CreateGrant{Grant: grant})
	})
	r.change("DELETE "+grantsPath+"/{id}", admin, func(req *http.Request) (any, error) {
		return a.drop(cluster.DropGrant{ID: req.PathValue("id")})
	})
}

// do makes a rule, and returns it with its ID.
func (a *restrictionRoutes) do(op cluster.Op) (any, error) { return a.execute(op) }

// drop removes a rule.
func (a *restrictionRoutes) drop(op cluster.Op) (any, error) {
	if _, err := a.execute(op); err != nil {
		return nil, err
	}
	return json.RawMessage("{}"), nil
}
