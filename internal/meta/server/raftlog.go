package server

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamagedLog is wrapped by the errors of a raftLog for what is not as it was stored.
var errDamagedLog = errors.New("its checksum is wrong")

// raftLog is raft.db with a checksum for each entry and number: bbolt has none for values. What an earlier
// version stored has no checksum, and an earlier version can read what is stored here.
type raftLog struct{ *raftboltdb.BoltStore }

// sum covers what a log entry does. Raft leaves Extensions to the store. They travel to other nodes, which replace
// them.
func sum(e *raft.Log) []byte {
	h := crc32.New(castagnoli)
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], e.Index)
	binary.BigEndian.PutUint64(head[8:], e.Term)
	head[16] = byte(e.Type)
	h.Write(head[:])
	h.Write(e.Data)
	return h.Sum(nil)
}

// StoreLog stores one entry.
func (l raftLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs stores entries with their checksums.
func (l raftLog) StoreLogs(entries []*raft.Log) error {
	sealed := make([]*raft.Log, len(entries))
	for i, e := range entries {
		c := *e // Raft uses its own at the same time
		c.Extensions = sum(e)
		sealed[i] = &c
	}
	return l.BoltStore.StoreLogs(sealed)
}

// GetLog returns an entry that is as it was stored.
func (l raftLog) GetLog(index uint64, e *raft.Log) error {
	if err := l.BoltStore.GetLog(index, e); err != nil {
		return err
	}
	if e.Index != index || len(e.Extensions) > 0 && !bytes.Equal(e.Extensions, sum(e)) {
		return fmt.Errorf("entry %d: %w", index, errDamagedLog)
	}
	return nil
}

// SetUint64 stores a number, eight bytes, and the checksum of key and number.
func (l raftLog) SetUint64(key []byte, v uint64) error {
	b := binary.BigEndian.AppendUint64(nil, v)
	return l.Set(key, append(b, numberSum(key, b)...))
}

// GetUint64 returns a number that is as it was stored.
func (l raftLog) GetUint64(key []byte) (uint64, error) {
	b, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 && (len(b) != 12 || !bytes.Equal(b[8:], numberSum(key, b[:8]))) {
		return 0, fmt.Errorf("%s: %w", key, errDamagedLog)
	}
	return binary.BigEndian.Uint64(b), nil
}

func numberSum(key, number []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, number))
}

// verify reads all that Raft is going to read, which panics where it does not understand something.
func (l raftLog) verify() (err error) {
	defer func() {
		if r := recover(); r != nil { // the decoders panic
			err = fmt.Errorf("%w: %v", errDamagedLog, r)
		}
	}()
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil {
			return fmt.Errorf("read entry %d of %d: %w", i, last, err)
		}
		switch {
		case e.Type == raft.LogConfiguration:
			raft.DecodeConfiguration(e.Data)
		case e.Type == raft.LogCommand && !json.Valid(e.Data), e.Type > raft.LogConfiguration:
			return fmt.Errorf("entry %d: %w", i, errDamagedLog)
		}
	}
	return nil
}
