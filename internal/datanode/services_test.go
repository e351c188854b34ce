package datanode

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/entropy/local"
	"concord/internal/meta/client"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// Tests walk rpc.Services to see that no method answers a stranger: one that is not listed would not be tried.
func TestServicesAreThoseThatTheNodeRegisters(t *testing.T) {
	t.Parallel()
	s := grpc.NewServer()
	(&Node{Meta: &client.Client{}, log: zap.NewNop(), overview: &overview{}}).registerServices(s, &local.Local{}, nil,
		&shardcopy.Server{})
	registered := slices.Sorted(maps.Keys(s.GetServiceInfo()))
	var listed []string
	for _, service := range rpc.Services() {
		listed = append(listed, service.ServiceName)
	}
	slices.Sort(listed)
	if d := cmp.Diff(registered, listed); d != "" {
		t.Errorf("registered (-) and listed (+):\n%s", d)
	}
}
