package client

// What tests outside of the package see.

const (
	RefreshEvery = refreshEvery
	StateFile    = stateFile
)

// ErrReplace refuses what would replace the copy.
var ErrReplace = errReplace

// Become makes a client believe that it has joined, and does not follow.
func (c *Client) Become(nodeID, clusterID uint64, servers ...string) {
	c.taking.Lock()
	defer c.taking.Unlock()
	c.who.Store(&identity{NodeID: nodeID, ClusterID: clusterID, MetaServers: servers})
}

// AskedFirst is the meta node that is asked first.
func (c *Client) AskedFirst() string { return c.nodes.order(c.MetaServers())[0] }
