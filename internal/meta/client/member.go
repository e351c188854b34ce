package client

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"concord/internal/durable"
)

const identityFile = "node.json"

// identity is this node's place in a cluster, as identityFile has it; the zero value is in none.
type identity struct {
	NodeID      uint64   `json:"node-id"`
	ClusterID   uint64   `json:"cluster-id"`
	MetaServers []string `json:"meta-servers"`
	Identity    string   `json:"identity,omitempty"` // names its folders; empty when it joined with an earlier version
}

// member knows which node of which cluster this is. Only stateCopy changes it, with its lock held, because the state
// must be of the same cluster.
type member struct {
	dir   string
	who   atomic.Pointer[identity] // never nil
	fresh atomic.Pointer[string]   // the identity that this node gets when it joins
}

func loadMember(dir string) (*member, error) {
	m := &member{dir: dir}
	m.renew()
	path := filepath.Join(dir, identityFile)
	who := &identity{}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, who); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if who.NodeID == 0 || who.ClusterID == 0 || len(who.MetaServers) == 0 {
			return nil, fmt.Errorf("%s is incomplete: remove it and run influxd-ctl add-data again", path)
		}
	}
	m.who.Store(who)
	return m, nil
}

// NodeID is this node's ID, 0 before it joined.
func (m *member) NodeID() uint64 { return m.who.Load().NodeID }

// ClusterID is the cluster's ID, 0 before this node joined.
func (m *member) ClusterID() uint64 { return m.who.Load().ClusterID }

// MetaServers are the meta nodes' HTTP addresses.
func (m *member) MetaServers() []string { return m.who.Load().MetaServers }

// Identity names this node's folders among all that ever were in a cluster: the one that it joined with, or will. It
// is empty for a node that joined with an earlier version, before Name.
func (m *member) Identity() string {
	if who := m.who.Load(); who.NodeID != 0 {
		return who.Identity
	}
	return *m.fresh.Load()
}

// store keeps who this node is, durably.
func (m *member) store(who *identity) error {
	b, err := json.Marshal(who)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(m.dir, identityFile), b, 0o600); err != nil {
		return fmt.Errorf("store identity: %w", err)
	}
	m.who.Store(who)
	return nil
}

// renew makes the identity for the next time that this node joins.
func (m *member) renew() {
	fresh := rand.Text()
	m.fresh.Store(&fresh)
}
