package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// endless is a node whose queries take until they are ended.
type endless struct {
	UnimplementedQueryServer
	asked chan struct{}
}

func (e endless) CreateIterator(_ *IteratorRequest, out Query_CreateIteratorServer) error {
	e.asked <- struct{}{}
	<-out.Context().Done()
	return out.Context().Err()
}

func (e endless) TagKeys(ctx context.Context, _ *SchemaRequest) (*TagKeysResponse, error) {
	e.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// The connection would end otherwise, as that of a node does that is killed.
func TestQueriesOfAServerThatStopsSaySo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopping := NewStopping()
	stopping.limit = 20 * time.Second // queries end late on a busy machine
	s := NewServer(stopping.Options()...)
	node := endless{asked: make(chan struct{})}
	RegisterQueryServer(s, node)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 2)
	go func() {
		_, err := NewQueryClient(conn).TagKeys(ctx, &SchemaRequest{})
		ended <- err
	}()
	go func() {
		chunks, err := NewQueryClient(conn).CreateIterator(ctx, &IteratorRequest{})
		if err == nil {
			_, err = chunks.Recv()
		}
		ended <- err
	}()
	<-node.asked
	<-node.asked
	stopping.Stop(s)
	<-done
	for range 2 {
		if err := <-ended; status.Code(err) != codes.Unavailable || Message(err) != "the data node stops" {
			t.Errorf("a query ends with %v", err)
		}
	}
}

// held is a node with a call that waits for something, and does not look whether its client is still there.
type held struct {
	UnimplementedMembershipServer
	asked, on chan struct{}
}

func (h held) Leave(context.Context, *LeaveRequest) (*LeaveResponse, error) {
	h.asked <- struct{}{}
	<-h.on
	return &LeaveResponse{}, nil
}

// A call may wait for a lock that who stops the server holds.
func TestServerStopsBesideACallThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopping := NewStopping()
	s := NewServer(stopping.Options()...)
	node := held{asked: make(chan struct{}), on: make(chan struct{})}
	RegisterMembershipServer(s, node)
	served := make(chan struct{})
	go func() { defer close(served); s.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	called := make(chan struct{})
	go func() {
		defer close(called)
		NewMembershipClient(conn).Leave(t.Context(), &LeaveRequest{})
	}()
	<-node.asked
	stopped := make(chan bool, 1)
	go func() { stopped <- stopping.Stop(s) }()
	select {
	case ended := <-stopped:
		if ended {
			t.Error("the server has ended before the call")
		}
	case <-time.After(20 * stopTime):
		t.Error("who stops the server waits for the call")
	}
	<-called // its connection has ended
	close(node.on)
	<-served
}
