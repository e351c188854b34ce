package server

import (
	"io"
	"strings"

	"github.com/hashicorp/raft"
)

// transport calls a meta node by its ID in Raft and its address. The library calls it by its address alone. But a node
// that lost its folder has another ID at the same address, and its empty log must not vote, nor count as a copy of what
// is committed.
type transport struct{ *raft.NetworkTransport }

// destination is what stream.Dial takes apart again.
func destination(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + string(addr))
}

func splitDestination(a raft.ServerAddress) (id, addr string) {
	id, addr, _ = strings.Cut(string(a), "@")
	return id, addr
}

func (t transport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, destination(id, addr))
}

func (t transport) AppendEntries(
	id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	return t.NetworkTransport.AppendEntries(id, destination(id, addr), args, resp)
}

func (t transport) RequestVote(
	id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse,
) error {
	return t.NetworkTransport.RequestVote(id, destination(id, addr), args, resp)
}

func (t transport) RequestPreVote(
	id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse,
) error {
	return t.NetworkTransport.RequestPreVote(id, destination(id, addr), args, resp)
}

func (t transport) InstallSnapshot(
	id raft.ServerID, addr raft.ServerAddress,
	args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader,
) error {
	return t.NetworkTransport.InstallSnapshot(id, destination(id, addr), args, resp, data)
}

func (t transport) TimeoutNow(
	id raft.ServerID, addr raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse,
) error {
	return t.NetworkTransport.TimeoutNow(id, destination(id, addr), args, resp)
}
