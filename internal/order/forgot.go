package order

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"concord/internal/durable"
)

// forgot is what a journal has forgotten, as it is on disk: a restart must not make it look as if the journal knew
// all. docs/format/order.md describes the file. It is written before anything below the floor is forgotten.
type forgot struct {
	dropped, since Version // as in horizon
}

const (
	forgotName   = "forgot"
	forgotMagic  = "CORF"
	forgotFormat = 1
	forgotSize   = 4 + 2 + 2 + 8 + 8 + 4
)

func (f forgot) encode() []byte {
	b := append([]byte(forgotMagic), 0, forgotFormat, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(f.dropped))
	b = binary.BigEndian.AppendUint64(b, uint64(f.since))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errForgotDamaged = errors.New("the file is damaged")

func decodeForgot(b []byte) (f forgot, err error) {
	const sum = forgotSize - 4
	if len(b) != forgotSize || string(b[:4]) != forgotMagic || binary.BigEndian.Uint16(b[6:]) != 0 ||
		binary.BigEndian.Uint32(b[sum:]) != crc32.Checksum(b[:sum], castagnoli) {
		return f, errForgotDamaged
	}
	if format := binary.BigEndian.Uint16(b[4:]); format != forgotFormat {
		return f, fmt.Errorf("format %d is of another version of this program: move the file away to start without it",
			format)
	}
	return forgot{Version(binary.BigEndian.Uint64(b[8:])), Version(binary.BigEndian.Uint64(b[16:]))}, nil
}

// loadForgot reads what was forgotten before the journal was opened. Without the file, which an earlier build did not
// write, everything may have been.
func (f *files) loadForgot(found onDisk) error {
	path := filepath.Join(f.cfg.Dir, forgotName)
	b, err := os.ReadFile(path)
	if err == nil {
		f.stored, err = decodeForgot(b)
	}
	switch {
	case errors.Is(err, errForgotDamaged):
		f.cfg.Log.Warn("The record of what the journal of writes forgot is damaged: everything from before this "+
			"start counts as forgotten", zap.String("path", path), zap.Error(err))
		f.forgotAll = true
		found.lostTo = found.newest // it may have said so
	case errors.Is(err, fs.ErrNotExist):
		f.forgotAll = true
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	f.dropped, f.since = f.stored.dropped, max(f.stored.since, found.lostTo)
	if f.forgotAll {
		f.dropped = found.newest
		return nil // SetBegins says of what
	}
	return f.storeForgot()
}

// storeForgot stores what was forgotten, or is about to be, unless it is on disk. tidying must be held.
func (f *files) storeForgot() error {
	f.mu.Lock()
	now := forgot{f.dropped, f.since}
	stored := f.stored == now
	f.mu.Unlock()
	if stored {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(f.cfg.Dir, forgotName), now.encode(), 0o640); err != nil {
		return fmt.Errorf("store what the journal of writes has forgotten: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = now
	return nil
}

// SetBegins sets a version that no write from before the journal was opened is above. Call it before the first write.
func (f *files) SetBegins(v Version) error {
	f.tidying.Lock()
	defer f.tidying.Unlock()
	f.mu.Lock()
	f.begins = v
	if f.forgotAll {
		f.dropped = max(f.dropped, v)
	}
	f.mu.Unlock()
	return f.storeForgot()
}

// Lost notes that the journal may lack writes with versions up to v.
func (f *files) Lost(v Version) error {
	f.tidying.Lock()
	defer f.tidying.Unlock()
	f.mu.Lock()
	f.since = max(f.since, v)
	f.mu.Unlock()
	return f.storeForgot()
}
