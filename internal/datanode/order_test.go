package datanode

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
			deletes.Keep{IDs: time.Hour, Versions: time.Hour}, nil)
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
		if since := journal.At(1).Since; since < ahead {
			t.Errorf("%s has version %d, and the journal says that it knows all since %d", what, ahead, since)
		}
	}
}

// configIn is that of a node with its folders in dir.
func configIn(dir string) *Config {
	cfg := NewConfig()
	cfg.BindAddress, cfg.HTTPD.BindAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Meta.Dir, cfg.HintedHandoff.Dir = filepath.Join(dir, "meta"), filepath.Join(dir, "hh")
	cfg.Data.Dir, cfg.Data.WALDir = filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	return cfg
}

// mustOpen opens a node on free ports.
func mustOpen(t *testing.T, cfg *Config) *Node {
	t.Helper()
	for tries := 1; ; tries++ {
		cfg.HTTPD.BindAddress = "127.0.0.1:0" // Open has put the port there that it found the last time
		n := New(cfg, "", zap.NewNop(), Seams{})
		err := n.Open()
		if err == nil {
			return n
		}
		// Open finds a free port before it listens there: another test may take it in between.
		if !errors.Is(err, syscall.EADDRINUSE) || tries == 100 {
			t.Fatal(err)
		}
	}
}

// While a node closes, others still tell it of their clocks, until the exchange of what copies lack has ended. The
// clock and the journal are there until then.
func TestClockIsOpenUntilOthersTellNothingMore(t *testing.T) {
	t.Parallel()
	n := mustOpen(t, configIn(t.TempDir()))
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

// After a power failure the journal may lack the versions of the last writes, whose values the engine has. A late write
// from before the failure may undo one of them, and its copy counts as not whole. After a crash of the process alone,
// or a stop, nothing is lost.
func TestJournalMayLackWhatThePowerTook(t *testing.T) {
	t.Parallel()
	cfg := configIn(t.TempDir())
	boot := filepath.Join(cfg.Meta.Dir, "order", "boot")
	current, err := os.ReadFile(bootID)
	if err != nil {
		t.Skip("this system has no ID of a boot: ", err)
	}
	run := func() (since order.Version) {
		t.Helper()
		n := mustOpen(t, cfg)
		since = n.order.Journal.Since()
		if got, err := os.ReadFile(boot); err != nil || !bytes.Equal(got, current) {
			t.Errorf("while the node runs, the file has %q, %v", got, err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(boot); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after the node stopped, the file is there: %v", err)
		}
		return since
	}
	began := run() // a journal that is new knows nothing from before
	if again := run(); again != began {
		t.Errorf("after a stop, the journal begins at %d, and not at %d", again, began)
	}
	for _, tt := range []struct {
		name, boot string
		lost       bool
	}{{"the process", string(current), false}, {"the machine", "another boot\n", true}} {
		if err := os.WriteFile(boot, []byte(tt.boot), 0o600); err != nil {
			t.Fatal(err)
		}
		if since := run(); (since > began) != tt.lost {
			t.Errorf("after %s went down, the journal begins at %d; before, at %d", tt.name, since, began)
		}
	}
}
