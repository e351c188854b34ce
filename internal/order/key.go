package order

import "github.com/zeebo/xxh3"

// Key stands for one field of a point in a shard. It is a hash.
type Key uint64

// KeyOf returns the key of a field of the point of a series at a time, in nanoseconds.
func KeyOf(shard uint64, series []byte, field string, at int64) Key {
	return keyOf(xxh3.HashSeed(series, shard), []byte(field), at)
}

func keyOf(series uint64, field []byte, at int64) Key {
	h := xxh3.HashSeed(field, series) ^ uint64(at)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	if h == 0 {
		h = 1 // 0 is an empty slot of a table
	}
	return Key(h)
}

// table maps keys to their greatest versions. It is an open hash table, because a slot of 16 bytes is a third of what a
// map needs.
type table struct {
	slots []pair // the number is a power of two
	n     int    // slots in use
}

type pair struct {
	key     Key // 0 for an empty slot
	version Version
}

func newTable(slots int) *table { return &table{slots: make([]pair, slots)} }

// slot returns the place where a key is, or where it belongs.
func (t *table) slot(key Key) *pair {
	mask := uint64(len(t.slots) - 1)
	for i := uint64(key) & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.key == key || s.key == 0 {
			return s
		}
	}
}

func (t *table) get(key Key) Version { return t.slot(key).version }

func (t *table) put(key Key, v Version) {
	s := t.slot(key)
	if s.key == 0 {
		if t.n++; 2*t.n > len(t.slots) {
			t.grow()
			s = t.slot(key)
		}
		s.key = key
	}
	s.version = max(s.version, v)
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]pair, 2*len(old))
	for _, p := range old {
		if p.key != 0 {
			*t.slot(p.key) = p
		}
	}
}
