package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/influxdata/influxdb/services/meta"
)

// CreateDataNode adds a data node, or tells a new HTTP address and version of the one with this TCP address. A passive
// one stays passive, and one that is being drained stays so. The result is the Node.
type CreateDataNode struct {
	TCPAddr  string `json:"tcp-addr"`
	HTTPAddr string `json:"http-addr"`
	Version  string `json:"version"`
	Identity string `json:"identity,omitempty"` // empty in logs of earlier versions
	Passive  bool   `json:"passive,omitempty"`  // false in logs of earlier versions
}

func (o CreateDataNode) apply(s *State) (any, error) {
	n := Node{TCPAddr: o.TCPAddr, HTTPAddr: o.HTTPAddr, Version: o.Version, Identity: o.Identity, Passive: o.Passive}
	if old, ok := s.DataNodeByAddr(o.TCPAddr); ok && !old.Passive && o.Passive {
		if owned := s.owned(old.ID); owned > 0 {
			return nil, fmt.Errorf("data node %d owns %d shards: a passive node owns none", old.ID, owned)
		}
	} else if ok {
		n.Passive = old.Passive
	}
	return s.putNode(&s.DataNodes, n)
}

// owned counts the shards of a data node, those of deleted groups included: their files are still there.
func (s *State) owned(node uint64) (n int) {
	s.eachGroup(func(g *meta.ShardGroupInfo) {
		for _, sh := range g.Shards {
			if sh.OwnedBy(node) {
				n++
			}
		}
	})
	return n
}

// ActivateDataNode lets a passive data node own shards from now on. Repeating it is no error. The result is the Node.
type ActivateDataNode struct {
	ID uint64 `json:"id"`
}

func (o ActivateDataNode) apply(s *State) (any, error) {
	for i := range s.DataNodes {
		if n := &s.DataNodes[i]; n.ID == o.ID {
			n.Passive = false
			return *n, nil
		}
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// DrainDataNode says that a data node gets no more shards, or, with Ended, that it gets some again. Repeating it is no
// error. The result is the Node.
type DrainDataNode struct {
	ID    uint64 `json:"id"`
	Ended bool   `json:"ended,omitempty"`
}

func (o DrainDataNode) apply(s *State) (any, error) {
	for i := range s.DataNodes {
		if n := &s.DataNodes[i]; n.ID == o.ID {
			n.Draining = !o.Ended
			return *n, nil
		}
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// CreateMetaNode adds a meta node as CreateDataNode does a data node, and
// names the cluster if it has no ID yet. The result is the Node.
type CreateMetaNode struct {
	RaftAddr  string `json:"raft-addr"`
	HTTPAddr  string `json:"http-addr"`
	Version   string `json:"version"`
	ClusterID uint64 `json:"cluster-id"` // random
}

func (o CreateMetaNode) apply(s *State) (any, error) {
	if s.Data.ClusterID == 0 {
		if o.ClusterID == 0 {
			return nil, errors.New("the first meta node needs a cluster id")
		}
		s.Data.ClusterID = o.ClusterID
	}
	return s.putNode(&s.MetaNodes, Node{TCPAddr: o.RaftAddr, HTTPAddr: o.HTTPAddr, Version: o.Version})
}

func (s *State) putNode(nodes *[]Node, n Node) (Node, error) {
	if n.TCPAddr == "" {
		return Node{}, errors.New("a node needs an address")
	}
	for i, old := range *nodes {
		if old.TCPAddr == n.TCPAddr {
			n.ID, n.Labels, n.Draining = old.ID, old.Labels, old.Draining
			(*nodes)[i] = n
			return n, nil
		}
	}
	s.MaxNodeID++
	n.ID = s.MaxNodeID
	*nodes = append(*nodes, n) // the highest ID of all: still sorted
	return n, nil
}

// DeleteDataNode removes a data node and its ownerships. With Adopt, the shards
// that have no owner then go to other nodes, without their data: otherwise
// writes to them would fail for as long as their group lives.
type DeleteDataNode struct {
	ID    uint64    `json:"id"`
	Time  time.Time `json:"time"`
	Adopt bool      `json:"adopt,omitempty"` // false in logs of earlier versions
}

func (o DeleteDataNode) at(_ *State, now time.Time) (Op, error) {
	o.Time = now
	return o, nil
}

func (o DeleteDataNode) apply(s *State) (any, error) {
	if _, ok := s.DataNode(o.ID); !ok {
		return nil, fmt.Errorf("data node %d does not exist", o.ID)
	}
	for i, n := range s.DataNodes {
		if n.ID == o.ID {
			s.DataNodes = append(s.DataNodes[:i], s.DataNodes[i+1:]...)
			break
		}
	}
	s.removeOwner(o.ID, o.Time, func(meta.ShardInfo) bool { return true })
	s.endMerges(o.ID)
	if o.Adopt {
		s.adopt()
	}
	return nil, nil
}

// DeleteMetaNode removes a meta node; a missing one is no error.
type DeleteMetaNode struct {
	ID uint64 `json:"id"`
}

func (o DeleteMetaNode) apply(s *State) (any, error) {
	s.MetaNodes = slices.DeleteFunc(s.MetaNodes, func(n Node) bool { return n.ID == o.ID })
	return nil, nil
}

// UpdateDataNode gives a data node's ID, shards and labels to another address,
// which may be the same. The result is the Node.
type UpdateDataNode struct {
	ID       uint64 `json:"id"`
	TCPAddr  string `json:"tcp-addr"`
	HTTPAddr string `json:"http-addr"`
	Version  string `json:"version"`
	Identity string `json:"identity,omitempty"` // empty in logs of earlier versions
}

func (o UpdateDataNode) apply(s *State) (any, error) {
	if o.TCPAddr == "" {
		return nil, errors.New("a node needs an address")
	}
	if other, ok := s.DataNodeByAddr(o.TCPAddr); ok && other.ID != o.ID {
		return nil, fmt.Errorf("%s is the address of data node %d already", o.TCPAddr, other.ID)
	}
	for i := range s.DataNodes {
		if n := &s.DataNodes[i]; n.ID == o.ID {
			if n.Identity != o.Identity { // the folders are empty, and bring nothing
				s.endMerges(n.ID)
			}
			n.TCPAddr, n.HTTPAddr, n.Version, n.Identity = o.TCPAddr, o.HTTPAddr, o.Version, o.Identity
			n.Awaited = false
			return *n, nil
		}
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// ClaimDataNode gives the place of a data node that joined with an earlier version to the folders that claim it first.
// Repeating it is no error.
type ClaimDataNode struct {
	ID       uint64 `json:"id"`
	Identity string `json:"identity"`
}

func (o ClaimDataNode) apply(s *State) (any, error) {
	for i := range s.DataNodes {
		n := &s.DataNodes[i]
		if n.ID != o.ID {
			continue
		}
		if n.Identity != "" && n.Identity != o.Identity {
			return nil, fmt.Errorf("the place of data node %d belongs to an influxd with other folders: start this "+
				"one with empty folders, and run influxd-ctl update-data to give it the place", o.ID)
		}
		n.Identity = o.Identity
		return nil, nil
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}

// SetNodeLabels sets labels of a node of either kind, and removes those in Delete.
type SetNodeLabels struct {
	ID     uint64            `json:"id"`
	Set    map[string]string `json:"set,omitempty"`
	Delete []string          `json:"delete,omitempty"`
}

func (o SetNodeLabels) apply(s *State) (any, error) {
	for _, nodes := range [][]Node{s.DataNodes, s.MetaNodes} {
		for i := range nodes {
			n := &nodes[i]
			if n.ID != o.ID {
				continue
			}
			labels := make(map[string]string, len(n.Labels)+len(o.Set))
			maps.Copy(labels, n.Labels)
			maps.Copy(labels, o.Set)
			for _, k := range o.Delete {
				delete(labels, k)
			}
			if n.Labels = labels; len(labels) == 0 {
				n.Labels = nil
			}
			return *n, nil
		}
	}
	return nil, fmt.Errorf("node %d does not exist", o.ID)
}
