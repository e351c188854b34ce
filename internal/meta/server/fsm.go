package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/durable"
)

// savedFile has the state that was applied last. A node that cannot reach a majority after a restart
// does not know what of its log is committed; it answers reads from this.
const savedFile = "cluster.state"

// fsm is the state machine of Raft: every committed command is applied to an immutable state that replaces the last.
// The newest one is also saved to disk, as often as the disk allows.
type fsm struct {
	path string // of savedFile
	log  *zap.Logger

	mu      sync.Mutex
	state   *cluster.State // never changed, only replaced
	cached  *cluster.State // what the last run had applied, until Raft is as far
	changed chan struct{}  // closed when state is replaced
	save    chan struct{}  // holds one signal: state is to be saved; nil after close

	saved chan struct{} // closed when saving has ended
}

func openFSM(dir string, log *zap.Logger) *fsm {
	save := make(chan struct{}, 1)
	f := &fsm{
		path: filepath.Join(dir, savedFile), log: log,
		state: cluster.NewState(), changed: make(chan struct{}), save: save, saved: make(chan struct{}),
	}
	f.load()
	go f.saveLoop(save)
	return f
}

// close ends saving; the newest state is on disk then.
func (f *fsm) close() {
	f.mu.Lock()
	if f.save != nil {
		close(f.save)
		f.save = nil
	}
	f.mu.Unlock()
	<-f.saved
}

func (f *fsm) load() {
	b, err := os.ReadFile(f.path)
	if err != nil {
		return
	}
	st := new(cluster.State)
	if err := st.UnmarshalBinary(b); err != nil {
		f.log.Warn("The saved copy of the state is damaged: waiting for the other meta nodes", zap.Error(err))
		return
	}
	f.cached = st
}

// saveLoop saves the newest state, as often as the disk allows.
func (f *fsm) saveLoop(save <-chan struct{}) {
	defer close(f.saved)
	for range save {
		st, _ := f.current()
		b, err := st.MarshalBinary()
		if err == nil {
			err = durable.WriteFile(f.path, b, 0o600)
		}
		if err != nil {
			f.log.Warn("Cannot save a copy of the state", zap.Error(err))
		}
	}
}

// current returns the state and a channel that is closed when it changes.
func (f *fsm) current() (*cluster.State, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cached != nil && f.cached.Index > f.state.Index {
		return f.cached, f.changed
	}
	f.cached = nil
	return f.state, f.changed
}

// applied is the state that Raft has led to.
func (f *fsm) applied() *cluster.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fsm) set(next *cluster.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = next
	close(f.changed)
	f.changed = make(chan struct{})
	select {
	case f.save <- struct{}{}:
	default:
	}
}

// outcome is what became of a command.
type outcome struct {
	result any
	index  uint64
	err    error
}

// Apply carries out one committed command. A command that fails changes nothing.
func (f *fsm) Apply(l *raft.Log) any {
	cur := f.applied()
	var c cluster.Command
	if err := json.Unmarshal(l.Data, &c); err != nil {
		return outcome{index: cur.Index, err: fmt.Errorf("decode command: %w", err)}
	}
	next, result, err := cur.Next(l.Index, c)
	if err != nil {
		return outcome{index: cur.Index, err: err}
	}
	f.set(next)
	return outcome{result: result, index: next.Index}
}

// Snapshot hands out the state, which never changes.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return snapshot{f.applied()}, nil
}

// Restore replaces the state by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	st := new(cluster.State)
	if err := st.UnmarshalBinary(b); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	f.set(st)
	return nil
}

type snapshot struct{ state *cluster.State }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	b, err := s.state.MarshalBinary()
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (snapshot) Release() {}
