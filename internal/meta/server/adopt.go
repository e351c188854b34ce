package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// Adopt takes the plain server on whose folders the data node at addr runs into the cluster: see datanode/adopt.go for
// the steps. Repeating it finishes what an earlier attempt left undone. A dry run says what would be done. With merge,
// the server's data is merged with what the cluster has under the same names.
func (d *DataMembers) Adopt(ctx context.Context, addr string, dryRun, merge bool) (*wire.Adoption, error) {
	if err := checkTCPAddr(addr); err != nil {
		return nil, err
	}
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return nil, ErrNotInitialised
	}
	member, who, err := d.identify(ctx, addr, 0)
	if err != nil {
		if n, ok := st.DataNodeByAddr(addr); ok && n.Awaited {
			return nil, fmt.Errorf("%w: stop the old influxd there, start Concord's on the same folders, and try again",
				err)
		}
		return nil, err
	}
	if who.ClusterId != 0 && who.ClusterId != st.Data.ClusterID {
		return nil, fmt.Errorf("data node %s belongs to another cluster", addr)
	}
	n, known := st.DataNodeByAddr(addr)
	if known && !n.Awaited {
		return d.finishAdoption(ctx, member, n, who, dryRun)
	}
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	survey, err := member.Survey(ctx, &rpc.SurveyRequest{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("data node %s cannot be adopted: %s", addr, status.Convert(err).Message())
	case known:
		return d.adoptMember(ctx, member, n, who, survey, dryRun)
	case survey.Member:
		return nil, notAwaited(addr, st)
	}
	server, err := cluster.DecodeServer(survey.Server)
	if err != nil {
		return nil, err
	}
	plan, err := st.PlanAdoption(server, merge)
	if err != nil {
		return nil, err
	}
	plan.Moves = append(plan.Moves, unknownShards(survey)...)
	out := adoptionAnswer(plan)
	out.Bytes, out.DryRun = survey.Bytes, dryRun
	if dryRun {
		return out, nil
	}
	if err := d.prepareAdoption(ctx, member, addr, who, plan.Moves, plan.Merged); err != nil {
		return nil, err
	}
	result, err := d.server.Execute(cluster.AdoptServer{
		Node: cluster.CreateDataNode{
			TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity,
		},
		Server: survey.Server, Merge: merge, Moves: plan.Moves,
	})
	if err != nil {
		return nil, err
	}
	adopted, ok := result.(cluster.Adopted)
	if !ok {
		return nil, errors.New("the adoption was logged, and its result is unknown: run the command again")
	}
	out.Node = wire.Node(adopted.Node)
	return out, d.joinAdopted(ctx, member, adopted.Node)
}

// prepareAdoption has a data node note what it will do with its folders. shared are shards that other nodes own, too.
func (d *DataMembers) prepareAdoption(
	ctx context.Context, member rpc.MembershipClient, addr string, who *rpc.IdentifyResponse,
	moves []cluster.ShardMove, shared []uint64,
) error {
	prepare := &rpc.PrepareAdoptionRequest{
		ClusterId: d.server.State().Data.ClusterID, Identity: who.Identity, Shared: shared,
	}
	for _, m := range moves {
		prepare.Moves = append(prepare.Moves, &rpc.ShardMove{
			Database: m.Database, RetentionPolicy: m.RetentionPolicy, From: m.From, To: m.To,
		})
	}
	if _, err := member.PrepareAdoption(ctx, prepare); err != nil {
		return fmt.Errorf("data node %s cannot be adopted: %s", addr, status.Convert(err).Message())
	}
	return nil
}

// finishAdoption joins a data node that the cluster has adopted.
func (d *DataMembers) finishAdoption(
	ctx context.Context, member rpc.MembershipClient, n cluster.Node, who *rpc.IdentifyResponse, dryRun bool,
) (*wire.Adoption, error) {
	if replaced(n, who) || who.NodeId != 0 && who.NodeId != n.ID {
		return nil, errReplaced(n.TCPAddr, n)
	}
	out := &wire.Adoption{Node: wire.Node(n), Already: who.NodeId == n.ID, DryRun: dryRun}
	if out.Already || dryRun {
		return out, nil
	}
	return out, d.joinAdopted(ctx, member, n)
}

// joinAdopted tells a data node that its server is the cluster's now.
func (d *DataMembers) joinAdopted(ctx context.Context, member rpc.MembershipClient, n cluster.Node) error {
	return d.tell(ctx, member, n, "adopt", func(r *rpc.JoinRequest) { r.Adopt = true })
}

func adoptionAnswer(plan *cluster.Adoption) *wire.Adoption {
	out := &wire.Adoption{
		Users: plan.Users, KeptUsers: plan.KeptUsers, Queries: plan.Queries, Kept: plan.Kept, Shared: plan.Merged,
	}
	for _, p := range plan.Policies {
		out.Policies = append(out.Policies, wire.AdoptedPolicy(p))
	}
	for _, m := range plan.Moves {
		out.Moves = append(out.Moves, wire.ShardMove(m))
	}
	return out
}
