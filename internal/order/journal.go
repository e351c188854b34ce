package order

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"
)

// JournalConfig is what a journal needs.
type JournalConfig struct {
	Dir       string
	MaxKeys   int   // of one generation; 0 is 1,000,000, which takes 32 MiB of memory at most
	MaxMemory int   // generations in memory, 0 is 3; older ones are in sorted files alone
	MaxDisk   int64 // bytes, 0 is 1 GiB; past it the oldest writes are forgotten
	Log       *zap.Logger
}

// Journal knows with which version this node wrote each field of each point lately. Package order says what it is for.
//
// All writes go into the newest generation. It gives way to the next one when it has MaxKeys, and after two seconds in
// a healthy cluster. The oldest generations become sorted files, and several of these become one, so that there are
// never many. A generation or a file is forgotten as a whole, when all its versions are below the floor.
type Journal struct {
	cfg   JournalConfig
	fsync func(*os.File) error // tests replace it

	// tidying is held while generations are forgotten, sorted or merged. It comes before reading and mu.
	tidying sync.Mutex
	// reading is held for reading while sorted files are read, and for writing while some are closed. It comes before mu.
	reading sync.RWMutex

	mu         sync.Mutex
	inMemory   []*generation // the oldest first; the last one takes the writes
	sorted     []*sortedFile // the oldest first; older than those in memory; the slice is replaced and never changed
	sorts      int           // grows when a generation goes from memory to a file
	nextID     uint64        // of the next generation
	inFlight   map[Version]*Write
	durable    bool    // writes wait until they are on disk
	allDurable bool    // with durable: those that were noted before are on disk, too
	begins     Version // no write from before the journal was opened has a greater one
	loaded     Version // the greatest that was on disk when the journal was opened
	since      Version // what is older may have been forgotten although it is above the floor
	dropped    Version // the greatest that was forgotten below the floor
	leases     []lease // what is not to be forgotten below the floor, the oldest first
	damaged    bool    // some of what was on disk when the journal was opened is lost
	full       bool    // it was logged that the journal is past its size
	closed     bool
	superseded int64
}

// rotateAfter is how long writes go into one generation while the floor follows.
const rotateAfter = 2 * time.Second

// fewGenerations is how many generations there are at most while the floor follows. When there are more, the floor is
// behind, and the newest one takes writes until it is full.
const fewGenerations = 3

// OpenJournal opens the journal in a folder. It cuts off what a crash tore. It sets other damage aside.
func OpenJournal(cfg JournalConfig) (*Journal, error) {
	cfg.MaxKeys = cmp.Or(cfg.MaxKeys, 1_000_000)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, 3)
	cfg.MaxDisk = cmp.Or(cfg.MaxDisk, 1<<30)
	j := &Journal{cfg: cfg, fsync: (*os.File).Sync, inFlight: make(map[Version]*Write), nextID: 1}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	err := j.load()
	if err == nil {
		err = j.rotate()
	}
	if err != nil {
		return nil, errors.Join(err, j.closeFiles())
	}
	return j, nil
}

// load opens the files of the folder.
func (j *Journal) load() error {
	entries, err := os.ReadDir(j.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(j.cfg.Dir, e.Name())
		name, ext, _ := strings.Cut(e.Name(), ".")
		id, notNumber := strconv.ParseUint(name, 10, 64)
		switch {
		case strings.HasSuffix(e.Name(), ".tmp"):
			err = os.Remove(path)
		case notNumber != nil:
		case ext == sortedExt:
			err = j.loadSorted(id, path)
		case ext == logExt:
			err = j.loadLog(id, path)
		}
		if err != nil {
			return err
		}
		if notNumber == nil {
			j.nextID = max(j.nextID, id+1)
		}
	}
	slices.SortFunc(j.sorted, func(a, b *sortedFile) int { return cmp.Compare(a.id, b.id) })
	slices.SortFunc(j.inMemory, func(a, b *generation) int { return cmp.Compare(a.id, b.id) })
	return j.removeTwins()
}

func (j *Journal) loadSorted(id uint64, path string) error {
	f, err := openSorted(id, path)
	var broken *damagedError
	if errors.As(err, &broken) {
		return j.setAside(path, broken)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	j.sorted = append(j.sorted, f)
	j.loaded = max(j.loaded, f.newest)
	return nil
}

func (j *Journal) loadLog(id uint64, path string) error {
	g, err := readLog(id, path)
	var broken *damagedError
	switch {
	case errors.As(err, &broken):
		if err := j.setAside(path, broken); err != nil || g == nil {
			return err
		}
		if err := g.moveTo(path); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	j.inMemory = append(j.inMemory, g)
	j.loaded = max(j.loaded, g.newest)
	return nil
}

// setAside gives a damaged file another name. What it had behind the damage may be of any time before its last change.
func (j *Journal) setAside(path string, why *damagedError) error {
	j.since, j.damaged = max(j.since, why.newest), true
	aside := path + ".damaged"
	j.cfg.Log.Warn("The journal of writes is damaged, and kept aside: late writes may undo newer ones of that time",
		zap.String("kept", aside), zap.Error(why))
	return os.Rename(path, aside)
}

// removeTwins removes each log of which there is a sorted file. A crash can leave both.
func (j *Journal) removeTwins() (err error) {
	j.inMemory = slices.DeleteFunc(j.inMemory, func(g *generation) bool {
		twin := slices.ContainsFunc(j.sorted, func(f *sortedFile) bool { return f.id == g.id })
		if twin {
			err = errors.Join(err, g.remove())
		}
		return twin
	})
	return err
}

// SetBegins sets a version that no write from before the journal was opened is above. Call it before the first write.
func (j *Journal) SetBegins(v Version) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begins = v
}

func (j *Journal) current() *generation { return j.inMemory[len(j.inMemory)-1] }

// rotate begins a generation. mu must be held.
func (j *Journal) rotate() error {
	g, err := newGeneration(j.nextID, j.cfg.Dir)
	if err != nil {
		return fmt.Errorf("begin a file of the journal of writes: %w", err)
	}
	j.nextID++
	return j.append(g)
}

// append makes a generation the newest one. mu must be held.
func (j *Journal) append(g *generation) error {
	if len(j.inMemory) > 0 {
		if err := j.current().finish(); err != nil {
			return errors.Join(err, g.remove())
		}
	}
	j.inMemory = append(j.inMemory, g)
	return nil
}

// rotateInTime begins a generation when writes have gone into the last one for some time, and the floor follows.
func (j *Journal) rotateInTime() error {
	j.mu.Lock()
	id, last := j.nextID, j.current()
	due := last.keys > 0 && time.Since(last.began) > rotateAfter && len(j.inMemory)+len(j.sorted) < fewGenerations
	if due {
		j.nextID++
	}
	j.mu.Unlock()
	if !due {
		return nil
	}
	g, err := newGeneration(id, j.cfg.Dir) // writes do not wait for it
	if err != nil {
		return fmt.Errorf("begin a file of the journal of writes: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.current() != last { // it was full meanwhile
		return g.remove()
	}
	return j.append(g)
}

// SetFloor forgets what is older than floor, and tidies up. Call it about once a second.
func (j *Journal) SetFloor(floor Version) error {
	j.tidying.Lock()
	defer j.tidying.Unlock()
	if j.isClosed() {
		return nil
	}
	return errors.Join(j.rotateInTime(), j.forget(floor), j.tidy())
}

func (j *Journal) isClosed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.closed
}

// SetDurable makes writes wait, in Sync, until they are noted on disk. When it returns without an error, this is true
// of all that was noted before.
func (j *Journal) SetDurable(on bool) error {
	j.mu.Lock()
	if j.durable = on; !on || j.closed {
		j.allDurable = false
	}
	due := on && !j.allDurable && !j.closed
	generations := slices.Clone(j.inMemory)
	j.mu.Unlock()
	if !due {
		return nil
	}
	for _, g := range generations {
		if err := j.sync(g); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.allDurable = j.durable
	return nil
}

// sync returns when the log of a generation is on disk, as it is now.
func (j *Journal) sync(g *generation) error {
	j.mu.Lock()
	end := g.size
	j.mu.Unlock()
	return j.syncTo(g, end)
}

// syncTo returns when the log of a generation is on disk up to end.
func (j *Journal) syncTo(g *generation, end int64) error {
	g.syncing.Lock()
	defer g.syncing.Unlock()
	if g.synced >= end {
		return nil
	}
	j.mu.Lock()
	end = g.size // with the records that other writes added meanwhile
	j.mu.Unlock()
	err := j.fsync(g.file)
	if errors.Is(err, os.ErrClosed) {
		return nil // it is in a sorted file, which is on disk, or it was forgotten
	} else if err != nil {
		return fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.synced = end
	return nil
}

// Statistics are those of the measurement order.
func (j *Journal) Statistics(tags map[string]string) []models.Statistic {
	j.mu.Lock()
	defer j.mu.Unlock()
	keys := int64(0)
	for _, g := range j.inMemory {
		keys += int64(g.keys)
	}
	for _, f := range j.sorted {
		keys += f.pairs
	}
	return []models.Statistic{{
		Name: "order", Tags: tags,
		Values: map[string]any{"keys": keys, "diskBytes": j.diskBytes(), "superseded": j.superseded},
	}}
}

// diskBytes returns the size of all files. mu must be held.
func (j *Journal) diskBytes() (n int64) {
	for _, g := range j.inMemory {
		n += g.size
	}
	for _, f := range j.sorted {
		n += f.size()
	}
	return n
}

// Close closes the files. What was noted is found again by OpenJournal.
func (j *Journal) Close() error {
	j.tidying.Lock()
	defer j.tidying.Unlock()
	j.mu.Lock()
	var err error
	if !j.closed {
		err = j.current().finish()
	}
	j.closed = true
	j.mu.Unlock()
	return errors.Join(err, j.closeFiles())
}

// closeFiles closes all files.
func (j *Journal) closeFiles() error {
	j.reading.Lock()
	defer j.reading.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, g := range j.inMemory {
		errs = append(errs, g.close())
	}
	for _, f := range j.sorted {
		errs = append(errs, f.file.Close())
	}
	return errors.Join(errs...)
}
