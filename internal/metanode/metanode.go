// Package metanode puts a meta node together: the server with the cluster's state (package meta/server), what operators
// ask it to do with data nodes (package operator), and the anti-entropy of the whole cluster (package entropy/view).
package metanode

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"concord/internal/entropy/routes"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/view"
	"concord/internal/ldap"
	"concord/internal/meta/server"
	"concord/internal/operator"
	"concord/internal/page"
	"concord/internal/version"
)

// Deps is what a meta node is made of.
type Deps struct {
	server.Deps
	LeaseTime time.Duration // for which leases are granted; 0 for the engine's default
	WritesEnd time.Duration // as in operator.Deps
}

// Node is a meta node. Parts start in the order of Open, each made of those before it, and stop in reverse.
type Node struct {
	*server.Server
	*server.MetaMembers
	*server.DataMembers

	deps       Deps
	operations *operator.Operations
	entropy    http.Handler   // the anti-entropy of the whole cluster
	page       *page.Page     // of the cluster
	ldap       *ldap.Users    // whom LDAP servers know
	stop       []func() error // what Close runs, last first
}

// Open starts all parts. A node that is in a cluster waits for a leader, but not for long: without one it answers
// reads. ctx bounds the start alone. When it fails, what had started is stopped.
func Open(ctx context.Context, d Deps) (*Node, error) {
	n := &Node{deps: d}
	for _, open := range []func(context.Context) error{
		n.openServer, n.openLDAP, n.openOperations, n.openMembers, n.findCluster, n.serve,
	} {
		if err := open(ctx); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

func (n *Node) onClose(fn func() error) { n.stop = append(n.stop, fn) }

// Close stops all parts, the last started first, and returns their errors. It may be called again.
func (n *Node) Close() error {
	var errs []error
	for _, stop := range slices.Backward(n.stop) {
		errs = append(errs, stop())
	}
	n.stop = nil
	return errors.Join(errs...)
}

// openServer starts Raft, and listens for requests that serve answers.
func (n *Node) openServer(context.Context) (err error) {
	if n.Server, err = server.Open(n.deps.Deps); err != nil {
		return err
	}
	n.onClose(n.Server.Close)
	return nil
}

// openLDAP makes what asks LDAP servers who may log in.
func (n *Node) openLDAP(context.Context) error {
	n.ldap = ldap.NewUsers(ldap.Deps{State: n.Server.State, TLS: n.deps.Config.TLS, Log: n.Server.Log()})
	n.onClose(n.ldap.Close)
	return nil
}

// openOperations makes what this node does with data nodes for operators.
func (n *Node) openOperations(context.Context) error {
	s := n.Server
	all := &view.View{State: s.State, Transport: transport.New(s.Pool())}
	repair := func(ctx context.Context, shard uint64) error {
		_, err := all.Repair(ctx, shard)
		return err
	}
	n.operations = operator.New(operator.Deps{
		State: s.State, Execute: s.Execute, Pool: s.Pool(), Leads: s.Leads, Repair: repair,
		WritesEnd: n.deps.WritesEnd,
	})
	n.onClose(n.operations.Close)
	n.entropy = routes.NewHandler(all, server.UserOf)
	n.page = page.New(page.Deps{
		Address: s.HTTPAddr(), Kind: "meta", Version: version.String(), State: s.State, View: all, Pool: s.Pool(),
		AskRaft: s.AskRaft, Log: s.Log(),
		Logins: page.NewLogins(page.LoginDeps{
			On: n.deps.Config.Meta.AuthEnabled, State: s.State, LDAP: n.ldap,
			Trusted: n.deps.Config.Meta.InternalSharedSecret.Verify,
		}),
	})
	return nil
}

func (n *Node) openMembers(context.Context) error {
	n.MetaMembers = server.NewMetaMembers(n.Server)
	n.DataMembers = server.NewDataMembers(server.DataMembersDeps{Server: n.Server, Losses: n.operations.Losses})
	return nil
}

func (n *Node) findCluster(ctx context.Context) error { return n.MetaMembers.FindCluster(ctx) }

// serve starts the HTTP API, which needs all other parts.
func (n *Node) serve(context.Context) error {
	api := server.Serve(server.APIDeps{
		Server: n.Server, Meta: n.MetaMembers, Data: n.DataMembers, LDAP: n.ldap,
		Routes:      n.operations.Routes(),
		CopyStates:  n.operations.CopyStates,
		ShardRepair: n.entropy,
		Page:        n.page,
		LeaseTime:   n.deps.LeaseTime,
	})
	n.onClose(api.Close)
	n.onClose(n.page.Close) // before the API, which waits for its streams
	return nil
}
