package eventlog

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"
)

func TestWarningsAndKnownNewsAreEvents(t *testing.T) {
	t.Parallel()
	var l Log
	log := l.Of(zap.NewNop()).With(zap.String("service", "anti-entropy"))
	log.Debug("nobody wants to know")
	log.Info("Checking whether owners agree", zap.Int("shards", 3))
	log.Info("Repair done", zap.Uint64("db_shard_id", 7), zap.Int("points", 12))
	log.Warn("something odd", zap.String("node", "data2:8088"))
	log.Warn("something odd", zap.String("node", "data2:8088"))
	log.Error("A file of a shard is damaged", zap.Uint64("db_shard_id", 8), zap.Error(fmt.Errorf("bad block")))
	want := []Event{
		{Number: 1, Level: "info", Kind: "repair", Text: "Repair done: points 12", Shard: 7},
		{Number: 2, Level: "warn", Kind: "other", Text: "something odd: node data2:8088"},
		{Number: 3, Level: "error", Kind: "damage", Text: "A file of a shard is damaged: error bad block", Shard: 8},
	}
	if d := cmp.Diff(want, l.After(0), cmpopts.IgnoreFields(Event{}, "Time")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want[2:], l.After(2), cmpopts.IgnoreFields(Event{}, "Time")); d != "" {
		t.Error(d)
	}
	if left := l.After(3); len(left) != 0 {
		t.Errorf("%v", left)
	}
}

func TestALogKeepsAThousandEvents(t *testing.T) {
	t.Parallel()
	var l Log
	log := l.Of(zap.NewNop())
	for i := range 3 * Kept {
		log.Warn("odd", zap.Int("n", i))
	}
	all := l.After(0)
	if len(all) != Kept || all[0].Number != 2*Kept+1 || all[Kept-1].Number != 3*Kept {
		t.Errorf("%d events, from %d to %d", len(all), all[0].Number, all[len(all)-1].Number)
	}
	if some := l.After(3*Kept - 5); len(some) != 5 || time.Since(some[0].Time) > time.Minute {
		t.Errorf("%v", some)
	}
}

// TestEveryKnownMessageIsLogged finds each message of kinds in the source: one that was reworded would silently be no
// event any more.
func TestEveryKnownMessageIsLogged(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "eventlog") {
			return err
		}
		b, err := os.ReadFile(path)
		source.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for message := range kinds {
		if !strings.Contains(source.String(), `"`+message) {
			t.Errorf("nothing logs %q", message)
		}
	}
}
