package copystate

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"concord/internal/bolt"
	"concord/internal/rpc"
)

// The buckets of copies.db, which docs/format/copies.md draws. Every value begins with the CRC-32C of what follows it.
var (
	selfBucket   = []byte("self.v1")   // "self" -> JSON of self
	shardsBucket = []byte("shards.v1") // shard ID -> JSON of record
	tablesBucket = []byte("tables.v1") // holder -> rpc.OwedTable
	lostBucket   = []byte("lost.v1")   // node ID -> rpc.Owed
	marksBucket  = []byte("marks.v1")  // node ID -> mark, 8 bytes big endian
)

var selfKey = []byte("self")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// self is what a node remembers of itself.
type self struct {
	Folder string `json:"folder"` // names the files of this node, as the file in the data folder does
	Start  uint64 `json:"start"`  // grows with each start
	Mark   uint64 `json:"mark"`   // grows while the node runs
	Newest uint64 `json:"newest"` // the greatest shard ID of the metadata that was looked through for new shards

	Former []string `json:"former,omitempty"` // names that the files had earlier, the latest last, maxPast at most
	Starts []uint64 `json:"starts,omitempty"` // the latest starts of these files, in order, maxPast at most

	// Reached is a version of the node's clock from before a start. It stays the same over later starts until half of
	// the other nodes have answered, and is 0 then. If the folders were rolled back, deletes with greater versions may
	// be missing.
	Reached uint64 `json:"reached,omitempty"`

	// GoingBack is set when the folders turned out to be older than they were, until what the node keeps for others is
	// set aside.
	GoingBack bool `json:"goingBack,omitempty"`

	Reviewed bool `json:"reviewed"` // the metadata was looked through once
	Clean    bool `json:"clean"`    // the node stopped by itself, and left no write on its way
}

// Kind says what a copy lacks that nobody keeps for it.
type Kind string

// The kinds, from the least to the worst.
const (
	Missed Kind = "missed" // writes: what the copy has is right, and merged with the others
	Lost   Kind = "lost"   // all that was written before the disk or the shard was lost
	// Outdated may hold old values, or deleted points that no delete will remove any more: its node has forgotten
	// which points are newer than the delete. A repair makes the copy anew from the other copies, where these have
	// all that was acknowledged. Elsewhere it merges them.
	Outdated Kind = "outdated"
	// Stale lacks deletes that other nodes may know: it is not merged before they have run on it. Then it lacks what
	// record.After says.
	Stale Kind = "stale"
)

// Worse reports whether a copy of this kind lacks more than one of the other.
func (k Kind) Worse(than Kind) bool { return severity[k] > severity[than] }

var severity = map[Kind]int{"": 0, Missed: 1, Lost: 2, Outdated: 3, Stale: 4}

// record is what a node remembers of a shard that it owns.
type record struct {
	Had   bool   `json:"had,omitempty"`   // the copy exists, or did
	Lacks Kind   `json:"lacks,omitempty"` // empty when nothing is known to be missing
	Why   string `json:"why,omitempty"`   // for people
	Gen   uint64 `json:"gen,omitempty"`   // of Lacks: another for each time that something was missed
	// Of Stale: deletes with versions above Since may not have run on the copy. It is 0 when that is not known, and for
	// deletes that nobody keeps for it.
	Since uint64 `json:"since,omitempty"`
	After Kind   `json:"after,omitempty"` // of Stale: what it lacks when the deletes have run on it
	// Anew is a version of the node's clock from just before the copy was last made anew. The points that other owners
	// had by then came without versions. It is 0 when the copy was never made anew.
	Anew uint64 `json:"anew,omitempty"`
}

// beside is what the copy lacks, but for deletes that other nodes may know.
func (r record) beside() Kind {
	if r.Lacks == Stale {
		return r.After
	}
	return r.Lacks
}

// state is all that is on disk.
type state struct {
	self   self
	shards map[uint64]record
	tables map[uint64]table
	lost   map[uint64]shardSet
	marks  map[uint64]uint64
}

// store is copies.db.
type store struct{ db *bbolt.DB }

const withoutStore = "move it away to start without it: " +
	"every copy that other nodes have too is then compared before it is read"

// openStore opens the file at path and reads it.
func openStore(path string) (*store, *state, error) {
	db, err := bolt.Open(path, 0o600, 2*time.Second)
	var damaged *bolt.DamagedError
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, nil, fmt.Errorf("%s is in use: is another influxd running?", path)
	case errors.As(err, &damaged):
		return nil, nil, fmt.Errorf("%w: %s", err, withoutStore)
	case err != nil:
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	st, err := load(db)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s is damaged: %w: %s", path, err, withoutStore), db.Close())
	}
	return &store{db}, st, nil
}

// load reads everything, and makes the buckets that are not there.
func load(db *bbolt.DB) (*state, error) {
	st := &state{
		shards: make(map[uint64]record), tables: make(map[uint64]table), lost: make(map[uint64]shardSet),
		marks: make(map[uint64]uint64),
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		if err := loadSelf(tx, &st.self); err != nil {
			return err
		}
		return errors.Join(
			loadEach(tx, shardsBucket, st.shards, decodeRecord),
			loadEach(tx, tablesBucket, st.tables, func(v []byte) (table, error) {
				m := new(rpc.OwedTable)
				if err := proto.Unmarshal(v, m); err != nil {
					return table{}, err
				}
				return decodeTable(m)
			}),
			loadEach(tx, lostBucket, st.lost, func(v []byte) (shardSet, error) {
				m := new(rpc.Owed)
				err := proto.Unmarshal(v, m)
				return newShardSet(m.Shards), err
			}),
			loadEach(tx, marksBucket, st.marks, func(v []byte) (uint64, error) {
				if len(v) != 8 {
					return 0, fmt.Errorf("a mark of %d bytes", len(v))
				}
				return binary.BigEndian.Uint64(v), nil
			}),
		)
	})
	return st, err
}

func loadSelf(tx *bbolt.Tx, to *self) error {
	b, err := tx.CreateBucketIfNotExists(selfBucket)
	if err != nil {
		return err
	}
	v := b.Get(selfKey)
	if v == nil {
		return nil
	}
	value, err := unseal(v)
	if err == nil {
		err = json.Unmarshal(value, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", selfBucket, err)
	}
	return nil
}

// loadEach reads the entries of a bucket.
func loadEach[V any](tx *bbolt.Tx, name []byte, to map[uint64]V, decode func(value []byte) (V, error)) error {
	b, err := tx.CreateBucketIfNotExists(name)
	if err != nil {
		return err
	}
	return b.ForEach(func(k, v []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("%s has a key of %d bytes", name, len(k))
		}
		id := binary.BigEndian.Uint64(k)
		value, err := unseal(v)
		if err == nil {
			to[id], err = decode(value)
		}
		if err != nil {
			return fmt.Errorf("%s, entry %d: %w", name, id, err)
		}
		return nil
	})
}

func decodeRecord(v []byte) (record, error) {
	var r record
	if err := json.Unmarshal(v, &r); err != nil {
		return r, err
	}
	if _, ok := severity[r.Lacks]; !ok {
		return r, fmt.Errorf("unknown kind %q", r.Lacks)
	}
	if _, ok := severity[r.After]; !ok || r.After == Stale {
		return r, fmt.Errorf("unknown kind %q after its deletes", r.After)
	}
	if r.Lacks == Stale && r.After == "" { // written by an earlier version: each stale copy was Outdated afterwards
		r.After = Outdated
	}
	return r, nil
}

// seal puts a checksum before a value.
func seal(v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(v, castagnoli)), v...)
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return nil, errors.New("wrong checksum")
	}
	return b[4:], nil
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// change is what one transaction stores. A nil value in a map removes the entry.
type change struct {
	self   *self
	shards map[uint64]*record
	tables map[uint64]*table
	lost   map[uint64]*shardSet
	marks  map[uint64]*uint64
}

// save stores a change; it is on disk when save returns.
func (s *store) save(c change) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if c.self != nil {
			if err := putJSON(tx.Bucket(selfBucket), selfKey, c.self); err != nil {
				return err
			}
		}
		return errors.Join(
			put(tx.Bucket(shardsBucket), c.shards, func(_ uint64, r record) ([]byte, error) { return json.Marshal(r) }),
			put(tx.Bucket(tablesBucket), c.tables, func(id uint64, t table) ([]byte, error) {
				return proto.Marshal(t.encode(id))
			}),
			put(tx.Bucket(lostBucket), c.lost, func(id uint64, l shardSet) ([]byte, error) {
				return proto.Marshal(&rpc.Owed{Node: id, Shards: l.sorted()})
			}),
			put(tx.Bucket(marksBucket), c.marks, func(_, m uint64) ([]byte, error) { return key(m), nil }),
		)
	})
	if err != nil {
		return fmt.Errorf("store what copies of shards lack in %s: %w", s.db.Path(), err)
	}
	return nil
}

func put[V any](b *bbolt.Bucket, changes map[uint64]*V, encode func(uint64, V) ([]byte, error)) error {
	for id, v := range changes {
		if v == nil {
			if err := b.Delete(key(id)); err != nil {
				return err
			}
			continue
		}
		text, err := encode(id, *v)
		if err == nil {
			err = b.Put(key(id), seal(text))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func putJSON(b *bbolt.Bucket, k []byte, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(k, seal(text))
}

func (s *store) close() error { return s.db.Close() }
