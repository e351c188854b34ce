package reconcile

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"

	"github.com/zeebo/xxh3"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile/riblt"
)

// An element's first word: the hash of the series-field, the window and the type.
// Its second word is the fold of the window's sum.
const (
	windowShift = 3
	hashShift   = 9
)

// HashOf is the hash of a series-field in a summary, 55 bits.
func HashOf(key uint64, series []byte, field string) uint64 {
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, uint64(len(field)))
	b = append(append(b, field...), series...)
	return xxh3.HashSeed(b, key) >> hashShift
}

func element(hash uint64, window int, t digest.Type, fold uint64) riblt.Element {
	return riblt.Element{hash<<hashShift | uint64(window)<<windowShift | uint64(t), fold}
}

// record is a series-field as a spool has it.
type record struct {
	hash   uint64
	series []byte
	field  string
	typ    digest.Type
	mask   uint64   // windows with points
	folds  []uint64 // one for each bit of mask, ascending
}

func (r *record) elements(fn func(riblt.Element)) {
	i := 0
	for m := r.mask; m != 0; m &= m - 1 {
		fn(element(r.hash, bits.TrailingZeros64(m), r.typ, r.folds[i]))
		i++
	}
}

// Spool is a Summary in a temporary file without a name, which goes with the
// process. It holds one record and the symbols that were asked for in memory.
type Spool struct {
	key      uint64
	file     *os.File
	elements int

	mu      sync.Mutex
	symbols []riblt.Symbol // the first ones
}

var _ Summary = (*Spool)(nil)

// NewSpool reads a list into a file in dir. key is that of the hashes.
func NewSpool(ctx context.Context, dir string, key uint64, list Source) (*Spool, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("summary of a shard: %w", err)
		}
	}
	f, err := os.CreateTemp(dir, "summary-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("summary of a shard: %w", err)
	}
	s := &Spool{key: key, file: f}
	if err = os.Remove(f.Name()); err == nil {
		err = s.fill(ctx, list)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *Spool) fill(ctx context.Context, list Source) error {
	w := bufio.NewWriterSize(s.file, 1<<16)
	var b []byte
	err := list(ctx, func(f *digest.SeriesField) error {
		var mask uint64
		b = b[:0]
		for i := range f.Windows {
			if fold := f.Windows[i].Fold(); fold != 0 {
				mask |= 1 << i
				b = binary.LittleEndian.AppendUint64(b, fold)
				s.elements++
			}
		}
		if mask == 0 {
			return nil
		}
		if s.elements > MaxElements {
			return ErrTooLarge
		}
		var h [25]byte
		binary.LittleEndian.PutUint64(h[0:], HashOf(s.key, f.Series, f.Field))
		binary.LittleEndian.PutUint64(h[8:], mask)
		binary.LittleEndian.PutUint32(h[16:], uint32(len(f.Series)))
		binary.LittleEndian.PutUint32(h[20:], uint32(len(f.Field)))
		h[24] = byte(f.Type)
		w.Write(h[:])
		w.Write(f.Series)
		w.WriteString(f.Field)
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

// each reads all records. fn must not keep its argument.
func (s *Spool) each(ctx context.Context, fn func(*record) error) error {
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, 1<<62), 1<<16)
	var (
		r     record
		h     [25]byte
		names []byte
	)
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := io.ReadFull(in, h[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the summary of a shard: %w", err)
		}
		series, field := int(binary.LittleEndian.Uint32(h[16:])), int(binary.LittleEndian.Uint32(h[20:]))
		r.hash, r.mask, r.typ = binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[8:]), digest.Type(h[24])
		if need := series + field + 8*bits.OnesCount64(r.mask); cap(names) < need {
			names = make([]byte, need)
		} else {
			names = names[:need]
		}
		if _, err := io.ReadFull(in, names); err != nil {
			return fmt.Errorf("read the summary of a shard: %w", err)
		}
		r.series, r.field = names[:series], string(names[series:series+field])
		r.folds = r.folds[:0]
		for b := names[series+field:]; len(b) > 0; b = b[8:] {
			r.folds = append(r.folds, binary.LittleEndian.Uint64(b))
		}
		if err := fn(&r); err != nil {
			return err
		}
	}
}

// Elements implements Summary.
func (s *Spool) Elements() int { return s.elements }

// firstSymbols is how many symbols the first pass makes; each later one makes three times those before.
const firstSymbols = 256

// Symbols implements Summary. It may be called from several goroutines.
func (s *Spool) Symbols(ctx context.Context, from, to int) ([]riblt.Symbol, error) {
	if from < 0 || to < from || to > MaxSymbols {
		return nil, fmt.Errorf("symbols [%d, %d) are out of bounds", from, to)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.symbols) < to {
		have := len(s.symbols)
		more, err := riblt.Encode(s.key, have, max(4*have, firstSymbols), func(add func(riblt.Element)) error {
			return s.each(ctx, func(r *record) error {
				r.elements(add)
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		s.symbols = append(s.symbols, more...)
	}
	return s.symbols[from:to:to], nil
}

// Names implements Summary.
func (s *Spool) Names(ctx context.Context, hashes []uint64, fn func(series []byte, field string) error) error {
	if len(hashes) > MaxHashes {
		return fmt.Errorf("names of %d series are too many at once", len(hashes))
	}
	asked := make(map[uint64]bool, len(hashes))
	for _, h := range hashes {
		asked[h] = true
	}
	return s.each(ctx, func(r *record) error {
		if !asked[r.hash] {
			return nil
		}
		return fn(r.series, r.field)
	})
}

// Close removes the file.
func (s *Spool) Close() error { return s.file.Close() }
