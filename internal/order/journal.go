package order

import (
	"cmp"
	"os"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"
)

// JournalConfig is what a journal needs.
type JournalConfig struct {
	Dir       string
	MaxKeys   int   // of one generation; 0 is 1,000,000, which takes 32 MiB of memory at most
	MaxMemory int   // generations in memory, 0 is 5; older ones are in sorted files alone
	MaxDisk   int64 // bytes, 0 is 1 GiB; past it the oldest writes are forgotten
	Log       *zap.Logger
}

// Journal knows with which version this node wrote each field of each point lately. Package order says what it is for.
//
// All writes go into the newest generation. It gives way to the next one when it has MaxKeys, and after two seconds in
// a healthy cluster. The oldest generations become sorted files, and several of these become one, so that there are
// never many. A generation or a file is forgotten as a whole, when all its versions are below the floor.
//
// The journal is files, which do all that, and the writes that are under way.
type Journal struct {
	files
	inFlight   map[Version]*Write // mu guards it, and superseded
	superseded int64              // fields of late writes that were left out
	damaged    bool               // some of what was on disk when the journal was opened is lost
}

// OpenJournal opens the journal in a folder. It cuts off what a crash tore. It sets other damage aside.
func OpenJournal(cfg JournalConfig) (*Journal, error) {
	cfg.MaxKeys = cmp.Or(cfg.MaxKeys, 1_000_000)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, 5) // of a million keys a second none is sorted while the floor follows
	cfg.MaxDisk = cmp.Or(cfg.MaxDisk, 1<<30)
	j := &Journal{
		files: files{
			generations: generations{cfg: cfg, nextID: 1},
			durability:  durability{fsync: (*os.File).Sync},
		},
		inFlight: make(map[Version]*Write),
	}
	found, err := j.open()
	if err != nil {
		return nil, err
	}
	j.damaged = found.damaged
	return j, nil
}

// Statistics are those of the measurement order.
func (j *Journal) Statistics(tags map[string]string) []models.Statistic {
	j.mu.Lock()
	defer j.mu.Unlock()
	return []models.Statistic{{
		Name: "order", Tags: tags,
		Values: map[string]any{"keys": j.keys(), "diskBytes": j.diskBytes(), "superseded": j.superseded},
	}}
}
