package digest_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

// A shard that is being closed waits for its files, which who reads it holds. The reader must not wait for the shard.
func TestShardIsClosedWhileItIsRead(t *testing.T) {
	t.Parallel()
	const series = 10
	for name, read := range map[string]func(ctx context.Context, sh *tsdb.Shard, fn func() error) error{
		"digest": func(ctx context.Context, sh *tsdb.Shard, fn func() error) error {
			return digest.Compute(ctx, sh, key, shardRange, math.MaxInt64, func(*digest.SeriesField) error {
				return fn()
			})
		},
		"patch": func(ctx context.Context, sh *tsdb.Shard, fn func() error) error {
			var regions []patch.Region
			for i := range series {
				name := fmt.Appendf(nil, "m%d", i)
				regions = append(regions, patch.Region{Series: name, Field: "v", Type: digest.Float, Max: 1})
			}
			return patch.Read(ctx, sh, regions, patch.Limits{}, func(patch.Block) error { return fn() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh := mustFlushed(t, series)
			closed, ended := make(chan error, 1), make(chan error, 1)
			go func() {
				first := true
				ended <- read(t.Context(), sh, func() error {
					if first {
						first = false
						go func() { closed <- sh.Close() }()
						for answers(sh) {
						}
					}
					return nil
				})
			}()
			timeout := time.After(20 * time.Second)
			for _, done := range []chan error{ended, closed} {
				select {
				case err := <-done:
					if closes := done == closed; (err == nil) != closes {
						t.Errorf("closed: %v, %v", closes, err)
					}
				case <-timeout:
					t.Fatal("the shard and its reader wait for each other")
				}
			}
		})
	}
}

// mustFlushed returns a shard with a point of each of some series in a file.
func mustFlushed(t *testing.T, series int) *tsdb.Shard {
	t.Helper()
	s := openStore(t)
	sh := enginetest.Shard(t, s, 1)
	var lines []string
	for i := range series {
		lines = append(lines, fmt.Sprintf("m%d v=1 1", i))
	}
	enginetest.Write(t, s, 1, lines...)
	enginetest.Flush(t, sh)
	return sh
}

// answers reports whether a shard answers, and is not being closed.
func answers(sh *tsdb.Shard) bool {
	begun, answered := make(chan struct{}), make(chan struct{})
	go func() {
		close(begun)
		sh.Engine()
		close(answered)
	}()
	<-begun
	select {
	case <-answered:
		return true
	case <-time.After(2 * time.Second): // long, for a busy machine
		return false
	}
}
