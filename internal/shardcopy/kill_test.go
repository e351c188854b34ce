package shardcopy

import (
	"hash/crc32"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// Who kills a copy and is told so must not find its node as an owner: the kill
// comes here when everything has arrived, and the copy has not answered yet.
func TestCopyKilledAtTheVeryEndStaysKilled(t *testing.T) {
	t.Parallel()
	whole := onePoint(t)
	addr := mustServe(t, &source{chunks: []*rpc.ExportChunk{
		{Data: whole}, {Last: true, Bytes: uint64(len(whole)), Checksum: crc32.Checksum(whole, castagnoli)},
	}})
	s := newServer(t)
	killed := make(chan error, 1)
	asked := 0
	s.Deletes = func(uint64) uint64 {
		if asked++; asked == 2 { // all has come
			go func() {
				_, err := s.KillCopy(t.Context(), &rpc.KillCopyRequest{ShardId: 7, Source: addr})
				killed <- err
			}()
			s.copies.mu.Lock()
			c := s.copies.m[copyKey{addr, 7}]
			s.copies.mu.Unlock()
			<-c.ctx.Done()
		}
		return 1
	}
	_, err := s.Copy(t.Context(), &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr})
	if kerr := <-killed; kerr != nil {
		t.Fatal(kerr)
	}
	if err == nil || s.Store.Shard(7) != nil {
		t.Errorf("the copy answers %v, and its files are left: %v", err, s.Store.Shard(7) != nil)
	}
}

// The store is closed after Close. A copy that still used it would end the process.
func TestCloseEndsCopies(t *testing.T) {
	t.Parallel()
	whole := onePoint(t)
	addr := mustServe(t, &source{chunks: []*rpc.ExportChunk{
		{Data: whole}, {Last: true, Bytes: uint64(len(whole)), Checksum: crc32.Checksum(whole, castagnoli)},
	}})
	s := newServer(t)
	var ended atomic.Bool
	closed := make(chan bool, 1)
	s.Deletes = func(uint64) uint64 { // before anything is fetched
		go func() {
			s.Close()
			closed <- ended.Load()
		}()
		s.copies.mu.Lock()
		c := s.copies.m[copyKey{addr, 7}]
		s.copies.mu.Unlock()
		<-c.ctx.Done()
		ended.Store(true)
		return 1
	}
	request := &rpc.CopyRequest{ShardId: 7, Database: "db", RetentionPolicy: "rp", Source: addr}
	if _, err := s.Copy(t.Context(), request); err == nil || s.Store.Shard(7) != nil {
		t.Errorf("the copy answers %v, and its files are left: %v", err, s.Store.Shard(7) != nil)
	}
	if !<-closed {
		t.Error("Close did not wait for the copy")
	}
	if _, err := s.Copy(t.Context(), request); status.Code(err) != codes.Unavailable {
		t.Errorf("a copy after Close answers %v", err)
	}
}
