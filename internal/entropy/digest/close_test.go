package digest_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
)

// A shard that is closed waits for its files, which a digest holds. The digest must not wait for the shard.
func TestShardIsClosedWhileItIsDigested(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	if err := s.CreateShard("db", "rp", 1, true); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range 10 {
		fmt.Fprintf(&lines, "m%d v=1 1\n", i)
	}
	points, err := models.ParsePointsString(lines.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteToShard(tsdb.WriteContext{}, 1, points); err != nil {
		t.Fatal(err)
	}
	sh := s.Shard(1)
	engine, err := sh.Engine()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.(*tsm1.Engine).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}

	closed, digested := make(chan error, 1), make(chan error, 1)
	seen := 0
	go func() {
		digested <- digest.Compute(t.Context(), sh, key, shardRange, math.MaxInt64, func(*digest.SeriesField) error {
			if seen++; seen == 1 {
				go func() { closed <- sh.Close() }()
				for answers(sh) {
				}
			}
			return nil
		})
	}()
	for _, done := range []chan error{digested, closed} {
		select {
		case err := <-done:
			if done == closed && err != nil {
				t.Error(err)
			} else if done == digested && err == nil {
				t.Error("the digest is of a shard that is closed")
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the shard and its digest wait for each other")
		}
	}
}

// answers reports whether a shard answers, and is not being closed.
func answers(sh *tsdb.Shard) bool {
	answered := make(chan struct{})
	go func() {
		sh.Engine()
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-time.After(50 * time.Millisecond):
		return false
	}
}
