package fieldindex

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/durable"
)

// The engine's names in the folder of a shard. The index is written as a temporary file first; one that a crash
// left behind keeps the engine from writing the index for ever.
const (
	// File is the name of the index.
	File = "fields.idx"

	indexName = File
	tornName  = indexName + ".tmp"
	logName   = tsdb.FieldsChangeFile
)

// The engine reads these files into memory as a whole.
const (
	maxFile   = 1 << 30
	maxRecord = 64 << 20 // of the log; the engine makes room for what the length says, whatever that is
)

// Remove removes the index of a closed shard. The engine makes it of the shard's files when it opens it.
func Remove(dir string) error {
	for _, name := range []string{logName, indexName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the index of fields: %w", err)
		}
	}
	return durable.SyncDir(dir)
}

// replay loads the index of fields of a shard as the engine does. The reason is what keeps the engine from that,
// empty when nothing does. It is empty when it has no fields. The engine's own code decides, over copies of the
// files, as it would change them.
func replay(dir string) (empty bool, reason string, err error) {
	_, err = os.Stat(filepath.Join(dir, indexName))
	_, logErr := os.Stat(filepath.Join(dir, logName))
	if errors.Is(err, fs.ErrNotExist) && errors.Is(logErr, fs.ErrNotExist) {
		return true, "", nil
	}
	if reason, err := sizes(filepath.Join(dir, logName)); reason != "" || err != nil {
		return false, reason, err
	}
	if errors.Is(logErr, fs.ErrNotExist) { // then the engine changes nothing
		return load(dir)
	}
	tmp, err := os.MkdirTemp("", "concord-fields-")
	if err != nil {
		return false, "", err
	}
	defer os.RemoveAll(tmp)
	for _, name := range []string{indexName, logName} {
		if reason, err := copySmall(filepath.Join(dir, name), filepath.Join(tmp, name)); reason != "" || err != nil {
			return false, reason, err
		}
	}
	return load(tmp)
}

// sizes verifies the lengths in the log: the engine trusts them. It takes an end within a record for a write that was
// torn, and forgets it. But when the disk was full the engine may have written on behind a torn record, and what came
// after it counts.
func sizes(path string) (reason string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var size [8]byte
	at := int64(0)
	for at+8 <= info.Size() {
		if _, err := f.ReadAt(size[:], at); err != nil {
			return "", err
		}
		n := binary.LittleEndian.Uint64(size[:])
		if n > maxRecord {
			return fmt.Sprintf("%s has a record of %d bytes", logName, n), nil
		}
		at += 8 + int64(n)
	}
	if at != info.Size() {
		return logName + " ends within a record", nil
	}
	return "", nil
}

func copySmall(from, to string) (reason string, err error) {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxFile+1))
	if err = errors.Join(err, out.Close()); err == nil && n > maxFile {
		reason = fmt.Sprintf("%s has more than %d bytes", filepath.Base(from), maxFile)
	}
	return reason, err
}

// load has the engine load the files of a folder, and says why it does not.
func load(dir string) (empty bool, reason string, err error) {
	defer func() {
		if p := recover(); p != nil { // the engine takes what it reads for whole
			reason = fmt.Sprintf("%s or %s is malformed: %v", indexName, logName, p)
		}
	}()
	set, err := tsdb.NewMeasurementFieldSet(filepath.Join(dir, indexName), nil)
	if err != nil {
		reason = innermost(err)
	}
	return set.IsEmpty(), reason, set.Close()
}

// innermost is an error in one line, without the path of the copy.
func innermost(err error) string {
	if errors.Is(err, tsdb.ErrFieldTypeConflict) {
		return err.Error()
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return fmt.Sprintf("%s or %s cannot be read: %v", indexName, logName, err)
		}
		err = next
	}
}

// write makes fields.idx what the data files say. It is whole and on disk before it gets its name.
func write(dir string, t types) error {
	// The engine removes folders with this ending when it opens a shard.
	tmp := filepath.Join(dir, "concord-fields.tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	set, err := tsdb.NewMeasurementFieldSet(filepath.Join(tmp, indexName), nil)
	if err == nil {
		err = fill(set, t)
	}
	if err == nil {
		err = set.WriteToFile()
	}
	if err = errors.Join(err, set.Close()); err != nil {
		return err
	}
	err = os.Rename(filepath.Join(tmp, indexName), filepath.Join(dir, indexName))
	if errors.Is(err, fs.ErrNotExist) { // the shard has no fields: so the engine has no file
		err = os.Remove(filepath.Join(dir, indexName))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

func fill(set *tsdb.MeasurementFieldSet, t types) error {
	for m, fields := range t {
		mf := set.CreateFieldsIfNotExists([]byte(m))
		for f, have := range fields {
			if err := create(mf, m, f, newest(have)); err != nil {
				return err
			}
		}
	}
	return nil
}

func create(mf *tsdb.MeasurementFields, measurement, field string, typ influxql.DataType) error {
	if _, _, err := mf.CreateFieldIfNotExists(field, typ); err != nil {
		return fmt.Errorf("add field %q of %q as %v: %w", field, measurement, typ, err)
	}
	return nil
}
