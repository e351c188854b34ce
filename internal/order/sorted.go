package order

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"slices"
	"sort"

	"concord/internal/durable"
)

const (
	pairSize   = 16
	blockPairs = 256 // between two keys of the index of a sorted file
	footerSize = 8 + 8 + 4
)

// sortedFile has the keys of one or more generations with their greatest versions, in the order of keys. It does not
// change. An index of every 256th key is in memory.
type sortedFile struct {
	id     uint64 // of the newest generation in it
	path   string
	file   *os.File
	first  []Key // of each block
	pairs  int64
	newest Version
	failed failures
}

func (f *sortedFile) size() int64 { return headerSize + f.pairs*pairSize + footerSize }

// version returns the greatest version of a key, 0 for none.
func (f *sortedFile) version(key Key) (Version, error) { return f.lookups().version(key) }

// lookups looks up several keys.
func (f *sortedFile) lookups() *lookups { return &lookups{f: f, block: -1} }

// lookups looks keys up in a sorted file. It has read one block, so keys in their order read each block once.
type lookups struct {
	f     *sortedFile
	block int // that was read, -1 for none
	pairs []byte
}

// version returns the greatest version of a key, 0 for none.
func (l *lookups) version(key Key) (Version, error) {
	f := l.f
	block := sort.Search(len(f.first), func(i int) bool { return f.first[i] > key }) - 1
	if block < 0 {
		return 0, nil
	}
	if block != l.block {
		from := int64(block) * blockPairs
		l.block = -1
		l.pairs = slices.Grow(l.pairs[:0], pairSize*blockPairs)[:pairSize*min(blockPairs, f.pairs-from)]
		if _, err := f.file.ReadAt(l.pairs, headerSize+from*pairSize); err != nil {
			return 0, fmt.Errorf("read the journal of writes: %w", err)
		}
		l.block = block
	}
	at := func(i int) Key { return Key(binary.BigEndian.Uint64(l.pairs[i*pairSize:])) }
	n := len(l.pairs) / pairSize
	if i := sort.Search(n, func(i int) bool { return at(i) >= key }); i < n && at(i) == key {
		return Version(binary.BigEndian.Uint64(l.pairs[i*pairSize+8:])), nil
	}
	return 0, nil
}

// openSorted opens a sorted file, and verifies all of it.
func openSorted(id uint64, path string) (*sortedFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &sortedFile{id: id, path: path, file: file}
	if err := f.verify(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

func (f *sortedFile) verify() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	f.pairs = (info.Size() - headerSize - footerSize) / pairSize
	if info.Size() < headerSize+footerSize || f.size() != info.Size() {
		return damaged(f.file, "the file has the wrong length")
	}
	if err := readHeader(f.file, sortedMagic); err != nil {
		return err
	}
	r := f.reader()
	for i := range f.pairs {
		p, err := r.next()
		if err != nil {
			return err
		}
		if i%blockPairs == 0 {
			f.first = append(f.first, p.key)
		}
	}
	f.newest, err = r.footer()
	return err
}

// pairReader reads the pairs of a sorted file, and its footer after them.
type pairReader struct {
	f   *sortedFile
	r   *bufio.Reader
	sum hash.Hash32
	b   [pairSize]byte
}

func (f *sortedFile) reader() *pairReader {
	pairs := io.NewSectionReader(f.file, headerSize, f.size()-headerSize)
	r := &pairReader{f: f, r: bufio.NewReaderSize(pairs, 1<<16), sum: crc32.New(castagnoli)}
	r.sum.Write(header(sortedMagic))
	return r
}

func (r *pairReader) next() (pair, error) {
	if _, err := io.ReadFull(r.r, r.b[:]); err != nil {
		return pair{}, err
	}
	r.sum.Write(r.b[:])
	return pair{Key(binary.BigEndian.Uint64(r.b[:])), Version(binary.BigEndian.Uint64(r.b[8:]))}, nil
}

// footer returns the greatest version of the file, and verifies the checksum of all that was read.
func (r *pairReader) footer() (newest Version, err error) {
	end, err := r.next()
	if err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(r.r, r.b[:4]); err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint32(r.b[:4]) != r.sum.Sum32() {
		return 0, damaged(r.f.file, "the checksum is wrong")
	}
	return end.version, nil
}

// createSorted writes a sorted file, in one step, and opens it. Pairs come in the order of keys.
func createSorted(dir string, id uint64, newest Version, pairs iter.Seq2[pair, error]) (*sortedFile, error) {
	f := &sortedFile{id: id, path: pathOf(dir, id, sortedExt), newest: newest}
	err := durable.Replace(f.path, f.path+".tmp", 0o640, func(to *os.File) error { return f.write(to, pairs) })
	if err == nil {
		f.file, err = os.Open(f.path)
	}
	return f, err
}

func (f *sortedFile) write(to *os.File, pairs iter.Seq2[pair, error]) error {
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(to, sum), 1<<16)
	w.Write(header(sortedMagic)) // an error of w comes again from Flush
	var b []byte
	for p, err := range pairs {
		if err != nil {
			return err
		}
		if f.pairs%blockPairs == 0 {
			f.first = append(f.first, p.key)
		}
		f.pairs++
		b = binary.BigEndian.AppendUint64(b[:0], uint64(p.key))
		w.Write(binary.BigEndian.AppendUint64(b, uint64(p.version)))
	}
	b = binary.BigEndian.AppendUint64(b[:0], uint64(f.pairs))
	w.Write(binary.BigEndian.AppendUint64(b, uint64(f.newest)))
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// merged returns the pairs of all files, in the order of keys. A key has its greatest version.
func merged(files []*sortedFile) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		var from []*pairSource
		for _, f := range files {
			from = append(from, &pairSource{r: f.reader(), left: f.pairs})
		}
		for _, s := range from {
			if err := s.advance(); err != nil {
				yield(pair{}, err)
				return
			}
		}
		for {
			least, any := pair{key: ^Key(0)}, false
			for _, s := range from {
				if s.has && (s.pair.key < least.key || s.pair.key == least.key && s.pair.version > least.version) {
					least, any = s.pair, true
				}
			}
			if !any {
				return
			}
			if !yield(least, nil) {
				return
			}
			for _, s := range from {
				for s.has && s.pair.key == least.key {
					if err := s.advance(); err != nil {
						yield(pair{}, err)
						return
					}
				}
			}
		}
	}
}

// pairSource is a file that is being merged.
type pairSource struct {
	r    *pairReader
	left int64
	pair pair // the next one
	has  bool // there is a next one
}

// advance reads the next pair. At the end it verifies the checksum.
func (s *pairSource) advance() (err error) {
	if s.left == 0 {
		s.has = false
		_, err = s.r.footer()
		return err
	}
	s.left--
	s.has = true
	s.pair, err = s.r.next()
	return err
}
