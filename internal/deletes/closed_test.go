package deletes

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/enginetest"
	"concord/internal/replication/replicationtest"
)

// The shards of a policy were closed while a delete used them. With the index in memory the process ended, and with
// the other one the two waited for each other for ever.
func TestPolicyIsDroppedBesideADelete(t *testing.T) {
	t.Parallel()
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			s := enginetest.Store(t, index)
			n := mustOpen(t, newNode(newDeps(t, &replicationtest.Meta{}, s, nil, 1), nil))
			var lines strings.Builder
			for i := range 300 {
				fmt.Fprintf(&lines, "m%d,host=h%d v=1 1000\n", i%10, i)
			}
			points := mustPoints(t, lines.String())
			for round := range 15 {
				for id := uint64(1); id <= 2; id++ {
					err := s.CreateShard(db, policy, id, true)
					if err == nil {
						err = s.WriteToShard(tsdb.WriteContext{}, id, points)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				ended := make(chan struct{}, 2)
				for i := range 2 {
					go func() {
						for j := range 10 {
							// It fails when the shards are closed before it began.
							_ = n.deletes.runDelete(dropOf(n, fmt.Sprintf("m%d", j), fmt.Sprint(round, i, j), 1), false)
						}
						ended <- struct{}{}
					}()
				}
				dropped := make(chan error, 1)
				go func() { dropped <- n.deletes.deps.Store.DeleteRetentionPolicy(db, policy, 0) }()
				late := time.After(60 * time.Second)
				for range 3 {
					select {
					case err := <-dropped:
						if err != nil {
							t.Fatal(err)
						}
					case <-ended:
					case <-late:
						t.Fatal("a delete and the drop of a policy wait for each other")
					}
				}
			}
		})
	}
}

// The engine finds nothing to delete while new readers of a shard are blocked, and does not say so: the points stayed.
func TestDeleteFailsWhileReadersAreBlocked(t *testing.T) {
	t.Parallel()
	s := storeWith(t, "m v=1 1000")
	n := mustOpen(t, newNode(newDeps(t, &replicationtest.Meta{}, s, nil, 1), nil))
	e := engineOf(t, s)
	if err := errors.Join(e.WriteSnapshot(), e.SetNewReadersBlocked(true)); err != nil {
		t.Fatal(err)
	}
	if err := n.deletes.runDelete(dropOf(n, "m", "d", 1), false); !errors.Is(err, tsm1.ErrNewReadersBlocked) {
		t.Errorf("the delete ended with %v", err)
	}
	if err := e.SetNewReadersBlocked(false); err != nil {
		t.Fatal(err)
	}
	if err := n.deletes.runDelete(dropOf(n, "m", "d", 1), false); err != nil || count(t, s, "m") != 0 {
		t.Errorf("the delete runs again: %v, %d points are left", err, count(t, s, "m"))
	}
}
