package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// AdoptCluster takes over the metadata of a cluster of influxdb-cluster, as one of its meta nodes told it. Then Adopt
// takes in its data nodes, one after the other.
func (d *DataMembers) AdoptCluster(metadata []byte, dryRun bool) (*wire.Adoption, error) {
	st := d.server.State()
	if st.Data.ClusterID == 0 {
		return nil, ErrNotInitialised
	}
	old, err := cluster.DecodeCluster(metadata)
	if err != nil {
		return nil, err
	}
	plan, err := st.PlanClusterAdoption(old)
	if err != nil {
		return nil, err
	}
	if !dryRun {
		result, err := d.server.Execute(cluster.AdoptCluster{Cluster: metadata})
		if err != nil {
			return nil, err
		}
		adopted, ok := result.(*cluster.AdoptedCluster)
		if !ok {
			return nil, errors.New("the adoption was logged, and its result is unknown: run the command again")
		}
		plan = adopted
	}
	out := adoptionAnswer(&plan.Adoption)
	out.DryRun = dryRun
	for _, n := range plan.DataNodes {
		out.Awaited = append(out.Awaited, wire.Node(n))
	}
	return out, nil
}

// adoptMember takes in the data node of an adopted cluster, with its ID and its shards. What is on its disk must be
// what the metadata says.
func (d *DataMembers) adoptMember(
	ctx context.Context, member rpc.MembershipClient, n cluster.Node, who *rpc.IdentifyResponse,
	survey *rpc.SurveyResponse, dryRun bool,
) (*wire.Adoption, error) {
	if !survey.Member {
		return nil, fmt.Errorf("data node %s runs on the folders of a plain server, and data node %d of the adopted "+
			"cluster is awaited there", n.TCPAddr, n.ID)
	}
	if len(survey.Waiting) > 0 {
		return nil, fmt.Errorf("hinted handoff of data node %s still keeps writes for %s: start the old influxd "+
			"again, and wait until its queues are empty", n.TCPAddr, fewOf(survey.Waiting))
	}
	plan, err := d.server.State().PlanMember(n, unknownShards(survey))
	if err != nil {
		return nil, err
	}
	out := adoptionAnswer(&cluster.Adoption{Moves: plan.Aside, Merged: plan.Shared})
	out.Bytes, out.DryRun, out.Node, out.Missing = survey.Bytes, dryRun, wire.Node(n), plan.Missing
	if dryRun {
		return out, nil
	}
	if err := d.prepareAdoption(ctx, member, n.TCPAddr, who, plan.Aside, plan.Shared); err != nil {
		return nil, err
	}
	joined, err := d.server.executeNode(cluster.AdoptDataNode{
		ID: n.ID, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity,
	})
	if err != nil {
		return nil, err
	}
	out.Node = wire.Node(joined)
	return out, d.joinAdopted(ctx, member, joined)
}

// unknownShards are the shards on disk that the data node found and does not know.
func unknownShards(survey *rpc.SurveyResponse) []cluster.ShardMove {
	out := make([]cluster.ShardMove, len(survey.Unknown))
	for i, m := range survey.Unknown {
		out[i] = cluster.ShardMove{Database: m.Database, RetentionPolicy: m.RetentionPolicy, From: m.From}
	}
	return out
}

// notAwaited is the error for a data node of another cluster for which no place is kept.
func notAwaited(addr string, st *cluster.State) error {
	var places []string
	for _, n := range st.DataNodes {
		if n.Awaited {
			places = append(places, n.TCPAddr)
		}
	}
	if len(places) == 0 {
		return fmt.Errorf("data node %s runs on the folders of a data node of influxdb-cluster: "+
			"run influxd-ctl adopt -influxdb-cluster <meta-http> first", addr)
	}
	return fmt.Errorf("no data node of the adopted cluster is awaited at %s, but at %s: "+
		"give it the hostname and the bind-address that it had", addr, fewOf(places))
}

// fewOf lists some of many.
func fewOf(all []string) string {
	const few = 5
	if more := len(all) - few; more > 0 {
		all = append(slices.Clone(all[:few]), fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}
