package datanode

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"

	"concord/internal/deletes"
	"concord/internal/order"
	"concord/internal/rpc"
)

// After a crash the clock of a node may be below what it wrote and removed: other nodes whose clocks were ahead gave
// those versions. Later writes get greater ones all the same.
func TestClockBeginsAboveWhatTheNodeHas(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"a write", "a delete"} {
		dir := t.TempDir()
		ahead := order.AtTime(time.Now().Add(time.Hour))
		ran, err := deletes.OpenRanLog(filepath.Join(dir, "deletes.db"),
			deletes.Keep{IDs: time.Hour, Versions: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ran.Close() })
		open := func() *order.Journal {
			j, err := order.OpenJournal(order.JournalConfig{Dir: filepath.Join(dir, "journal"), Log: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			return j
		}
		journal := open()
		if what == "a write" {
			p := models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(0, 1))
			_, w, err := journal.Begin(1, ahead, []models.Point{p}, false)
			if err != nil {
				t.Fatal(err)
			}
			w.Done()
		} else {
			err := ran.Record(&rpc.Delete{
				Kind: rpc.Delete_DROP_MEASUREMENT, Database: "db", Name: "m", Id: "d", Version: uint64(ahead),
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := journal.Close(); err != nil {
			t.Fatal(err)
		}
		journal = open()
		t.Cleanup(func() { journal.Close() })
		clock, err := order.OpenClock(filepath.Join(dir, "clock"), time.Now, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { clock.Close() })
		if err := beginOrder(clock, journal, ran); err != nil {
			t.Fatal(err)
		}
		if v := clock.Next(); v <= ahead {
			t.Errorf("%s has version %d, and a later write gets %d", what, ahead, v)
		}
		if _, since := journal.Certain(1); since < ahead {
			t.Errorf("%s has version %d, and the journal says that it knows all since %d", what, ahead, since)
		}
	}
}

// While a node closes, others still tell it of their clocks, until the exchange of what copies lack has ended. The
// clock and the journal are there until then.
func TestClockIsOpenUntilOthersTellNothingMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := NewConfig()
	cfg.BindAddress, cfg.HTTPD.BindAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Meta.Dir, cfg.HintedHandoff.Dir = filepath.Join(dir, "meta"), filepath.Join(dir, "hh")
	cfg.Data.Dir, cfg.Data.WALDir = filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	n := New(cfg, "", zap.NewNop(), Seams{})
	if err := n.Open(); err != nil {
		t.Fatal(err)
	}
	journal, copies := n.writer.Order.Journal, n.copies
	for left := len(n.stop); left > 0; left-- {
		if err := n.unwind(left - 1); err != nil {
			t.Fatal(err)
		}
		p := models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(0, int64(left)))
		_, _, err := journal.Begin(1, order.Version(left), []models.Point{p}, true)
		if journalClosed, copiesOpen := err != nil, copies.Mark() == nil; journalClosed && copiesOpen {
			t.Fatal("the journal is closed before the copies")
		}
	}
}
