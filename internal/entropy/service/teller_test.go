package service

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/entropytest"
)

// hungControl takes a check and does not answer before the limit of the call.
type hungControl struct {
	entropytest.Control
	checks atomic.Int32
}

func (c *hungControl) Check(ctx context.Context, _ uint64) error {
	c.checks.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

// However often it turns out that a copy lacks something, an owner that hangs is told of it once at a time, and once
// more afterwards.
func TestOwnerThatHangsIsToldOfACopyOnceAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, hung := entropytest.NewCluster(), &hungControl{}
		c.ID, c.Controls[1] = 2, hung
		told := teller{
			cluster: copies.Cluster{Meta: c, Transport: c, Now: time.Now}, report: &entropy.Report{Log: zap.NewNop()},
		}
		for range 100 {
			told.tell(2)
		}
		synctest.Wait()
		if n := hung.checks.Load(); n != 1 {
			t.Errorf("%d calls at the same time", n)
		}
		time.Sleep(tellTimeout)
		synctest.Wait()
		if n := hung.checks.Load(); n != 2 {
			t.Errorf("%d calls after the first has ended, want one more", n)
		}
		time.Sleep(tellTimeout)
		synctest.Wait()
		told.tell(2)
		synctest.Wait()
		if n := hung.checks.Load(); n != 3 {
			t.Errorf("%d calls, want a new one", n)
		}
		told.tell(2)
		told.close()
		told.tell(2)
		if n := hung.checks.Load(); n != 3 {
			t.Errorf("%d calls, want none after the service is closed", n)
		}
	})
}
