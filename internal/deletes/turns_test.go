package deletes

import (
	"runtime"
	"sync/atomic"
	"testing"

	"concord/internal/rpc"
)

func TestDeletesOfAMeasurementTakeTurns(t *testing.T) {
	t.Parallel()
	apart := "n" // a measurement that does not share the lock of m
	for all := new(turns); all.lockOf(apart) == all.lockOf("m"); {
		apart += "n"
	}
	for _, tt := range []struct {
		first, second string
		waits         bool
	}{
		{"DELETE FROM m WHERE h = 'a'", "DELETE FROM m WHERE time < 5", true},
		{"DELETE FROM m", "DELETE FROM " + apart, false},
		{"DELETE FROM m", "DELETE FROM /o/", true},
		{"DELETE WHERE h = 'a'", "DELETE FROM m", true},
		{"DELETE FROM m, other", "DELETE FROM third", true},
	} {
		d := &Service{}
		turn := func(statement string) (end func()) {
			return d.turn(&rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: statement})
		}
		end := turn(tt.first)
		var ended atomic.Bool
		asks, waited := make(chan struct{}), make(chan bool, 1)
		go func() {
			close(asks)
			end := turn(tt.second)
			waited <- ended.Load()
			end()
		}()
		if !tt.waits {
			<-waited // or the test hangs
			end()
			continue
		}
		<-asks
		for range 100 {
			runtime.Gosched() // one that does not wait gets on
		}
		ended.Store(true)
		end()
		if !<-waited {
			t.Errorf("%q does not wait for %q", tt.second, tt.first)
		}
	}
}

func TestMeasurementOfADrop(t *testing.T) {
	t.Parallel()
	if got := onlyMeasurement(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Name: "m"}); got != "m" {
		t.Errorf("it is %q", got)
	}
}
