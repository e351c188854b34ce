package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"concord/internal/durable"
)

// damage is what is known of a damaged copy.
type damage struct {
	Message string `json:"message"`
	Aside   bool   `json:"aside"` // the damaged files are: the copy can be read, and lacks what was in them
}

// damagedShards keeps the damaged copies of this node, each as a file named by the
// shard's ID: a line with the version and the CRC-32C of what follows, and JSON.
type damagedShards struct {
	dir string

	mu sync.Mutex
	m  map[uint64]damage // nil until it is read
}

const damageVersion = "damage.v1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeDamage(d damage) ([]byte, error) {
	b, err := json.Marshal(d)
	return fmt.Appendf(nil, "%s %08x\n%s", damageVersion, crc32.Checksum(b, castagnoli), b), err
}

// decodeDamage takes a torn or foreign record for damage of which nothing is known.
func decodeDamage(b []byte) damage {
	head, body, _ := strings.Cut(string(b), "\n")
	var d damage
	if head != fmt.Sprintf("%s %08x", damageVersion, crc32.Checksum([]byte(body), castagnoli)) ||
		json.Unmarshal([]byte(body), &d) != nil || d.Message == "" {
		return damage{Message: "damage that was found earlier"}
	}
	return d
}

// noteID is the shard that a file is about, false for a name that no note has.
func noteID(name string) (uint64, bool) {
	id, err := strconv.ParseUint(name, 10, 64)
	return id, err == nil && strconv.FormatUint(id, 10) == name
}

// read reads the file, once. mu must be held.
func (s *damagedShards) read() error {
	if s.m != nil {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return err
	}
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	m := make(map[uint64]damage)
	for _, n := range names {
		id, ok := noteID(n.Name())
		if !ok {
			continue // one that was not finished
		}
		b, err := os.ReadFile(s.path(id))
		if err != nil {
			return err
		}
		m[id] = decodeDamage(b)
	}
	s.m = m
	return nil
}

func (s *damagedShards) of(id uint64) (damage, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return damage{}, false, fmt.Errorf("read which shards are damaged: %w", err)
	}
	d, ok := s.m[id]
	return d, ok, nil
}

// all returns a copy of the set.
func (s *damagedShards) all() (map[uint64]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, fmt.Errorf("read which shards are damaged: %w", err)
	}
	out := make(map[uint64]string, len(s.m))
	for id, d := range s.m {
		out[id] = d.Message
	}
	return out, nil
}

// set notes damage durably.
func (s *damagedShards) set(id uint64, d damage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.read()
	if err == nil && s.m[id] != d {
		var b []byte
		if b, err = encodeDamage(d); err == nil {
			err = durable.WriteFile(s.path(id), b, 0o640)
		}
	}
	if err != nil {
		return fmt.Errorf("note that shard %d is damaged: %w", id, err)
	}
	s.m[id] = d
	return nil
}

func (s *damagedShards) remove(id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return err
	}
	// Coming back after a crash does no harm: no fsync.
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(s.m, id)
	return nil
}

func (s *damagedShards) path(id uint64) string {
	return filepath.Join(s.dir, strconv.FormatUint(id, 10))
}
