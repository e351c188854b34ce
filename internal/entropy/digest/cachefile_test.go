package digest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

func FuzzDecodeRecord(f *testing.F) {
	one := record{SeriesField: SeriesField{Series: []byte("cpu,host=a"), Field: "v", Type: Float}, files: 7}
	one.Windows[0], one.Windows[63] = Sum{1, 2, 3}, Sum{Count: 4}
	f.Add(appendRecord(nil, &one))
	f.Add(append(appendRecord(nil, &record{SeriesField: SeriesField{Series: []byte("m"), Type: String}}), 1, 2))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again record
		rest, err := decodeRecord(b, &r)
		if err != nil {
			return
		}
		if len(rest) >= len(b) {
			t.Fatal("nothing was read")
		}
		c := appendRecord(nil, &r)
		if rest, err := decodeRecord(c, &again); err != nil || len(rest) != 0 ||
			!bytes.Equal(appendRecord(nil, &again), c) {
			t.Fatalf("%x became %x", b, c)
		}
	})
}

// FuzzCacheFile damages a cache file: it is refused, or read to its end or to an error, and never for another shard.
// seal gives the frames the checksums that they should have: no mutation finds one.
func FuzzCacheFile(f *testing.F) {
	id := cacheID{key: 1, shard: 2, rng: Range{Start: 0, End: 64_000}}
	dir := f.TempDir()
	w, err := createCache(dir, id)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 40 {
		r := record{
			SeriesField: SeriesField{Series: fmt.Appendf(nil, "cpu,host=%02d", i), Field: "v", Type: Type(1 + i%5)},
			files:       uint64(i),
		}
		r.Windows[i], r.Windows[63] = Sum{1, 2, 3}, Sum{Count: 4}
		w.add(&r)
	}
	if _, err := w.finish(7); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(w.file.Name())
	if err != nil {
		f.Fatal(err)
	}
	if err := w.file.Close(); err != nil {
		f.Fatal(err)
	}
	const records = 2*frameHeader + headerPayload
	f.Add(uint32(0), []byte(nil), uint32(1<<31), true)
	f.Add(uint32(0), []byte(nil), uint32(1000), false)
	f.Add(uint32(frameHeader+6), []byte{0, 9}, uint32(1<<31), true)
	f.Add(uint32(records-frameHeader+1), []byte{0, 255, 255, 255}, uint32(1<<31), true)
	for at := uint32(records); at < records+90; at += 3 {
		f.Add(at, []byte{255}, uint32(1<<31), true)
	}
	f.Add(uint32(len(whole)-endPayload+8), []byte{255, 255}, uint32(1<<31), true)
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, end uint32, seal bool) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		b = b[:min(int(end), len(b))]
		for rest := b; seal && len(rest) >= frameHeader; {
			n := frameHeader + int64(binary.BigEndian.Uint32(rest[1:]))
			if n > int64(len(rest)) {
				break
			}
			sum := crc32.Update(crc32.Checksum(rest[:5], castagnoli), castagnoli, rest[frameHeader:n])
			binary.BigEndian.PutUint32(rest[5:], sum)
			rest = rest[n:]
		}
		path := filepath.Join(dir, "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		e, err := readCacheEnd(in, id)
		if err != nil {
			return
		}
		if !bytes.Equal(b[:frameHeader+headerPayload], whole[:frameHeader+headerPayload]) {
			t.Fatal("the header is another one")
		}
		r := newCacheReader(in, e.count)
		for n := 0; ; n++ {
			if n > len(b) {
				t.Fatal("more records than bytes")
			}
			if err := r.next(); err != nil {
				return
			}
		}
	})
}
