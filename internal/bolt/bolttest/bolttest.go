// Package bolttest damages bbolt files, for fuzz targets.
package bolttest

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// Damage returns a copy of a file of which the bytes from at on are patch, and that ends at the byte end. seal
// gives both meta pages the checksums that they should have: no mutation finds one.
func Damage(file []byte, at uint32, patch []byte, end uint32, seal bool) []byte {
	b := slices.Clone(file)
	copy(b[int(at)%len(b):], patch)
	if n := int(end); n < len(b) {
		b = b[:n]
	}
	if seal {
		const pageSize, header, size = 4096, 16, 56
		for i := range 2 {
			if from := i*pageSize + header; from+size+8 <= len(b) {
				h := fnv.New64a()
				h.Write(b[from : from+size])
				binary.NativeEndian.PutUint64(b[from+size:], h.Sum64())
			}
		}
	}
	return b
}
