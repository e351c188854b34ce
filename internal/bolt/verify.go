package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	bbolterrors "go.etcd.io/bbolt/errors"
)

// The file format of bbolt, see its page.go, db.go, bucket.go and freelist.go. Numbers are in the byte order of the
// machine.
const (
	pageHeader = 16 // id 8, flags 2, count 2, overflow 4
	// of leaf pages: flags 4, place 4, key size 4, value size 4; of branch pages: place 4, key size 4, page 8
	elementSize  = 16
	bucketHeader = 16 // root page 8, sequence 8
	// magic 4, version 4, page size 4, flags 4, root bucket 16, free list 8, first unused page 8, transaction 8,
	// checksum 8
	metaSize      = 64
	metaMagic     = 0xED0CDAED
	metaVersion   = 2
	branchPage    = 0x01
	leafPage      = 0x02
	metaPage      = 0x04
	freelistPage  = 0x10
	bucketElement = 0x01
	manyFree      = 0xFFFF // count of a free list whose length is its first number
)

var order = binary.NativeEndian

type meta struct {
	pageSize             int
	root, freelist, next uint64 // pages; next is the first that is not used
	tx                   uint64
}

var (
	errNoMeta = errors.New("it does not begin with a valid meta page")
	errTree   = errors.New("a page of its tree is not a bbolt page")
)

// readMeta reads the meta page that b begins with, as bbolt does.
func readMeta(b []byte) (m meta, err error) {
	if len(b) < pageHeader+metaSize {
		return m, errNoMeta
	}
	b = b[pageHeader:]
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	sum := order.Uint64(b[metaSize-8:])
	whole := sum == 0 || sum == h.Sum64()
	if order.Uint32(b) != metaMagic || !whole {
		return m, errNoMeta
	}
	if order.Uint32(b[4:]) != metaVersion {
		return m, bbolterrors.ErrVersionMismatch
	}
	return meta{
		pageSize: int(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), next: order.Uint64(b[40:]), tx: order.Uint64(b[48:]),
	}, nil
}

// verify returns an error unless bbolt can use a file with these bytes.
func verify(b []byte) error {
	size := os.Getpagesize()
	first, err0 := readMeta(b)
	if err0 == nil {
		size = first.pageSize
	}
	if size < 1024 || size > 1<<16 || size&(size-1) != 0 || len(b) < 2*size {
		return errNoMeta
	}
	m, err1 := readMeta(b[size:])
	switch {
	case err0 != nil && err1 != nil:
		return errors.Join(err0, err1)
	case err1 != nil || err0 == nil && first.tx >= m.tx:
		m = first
	}
	if m.pageSize != size || m.next > uint64(len(b)/size) {
		return errors.New("it is cut short")
	}
	for i := range 2 { // bbolt looks at both
		if order.Uint16(b[i*size+8:]) != metaPage {
			return errNoMeta
		}
	}
	v := verifier{b: b, size: uint64(size), next: m.next, used: make([]bool, m.next)}
	if err := v.tree(m.root, true, nil, nil, 0); err != nil {
		return err
	}
	return v.freelist(m.freelist)
}

type verifier struct {
	b          []byte
	size, next uint64
	used       []bool // pages that were met
}

// page returns a page with those that it flows over to. Each is met once.
func (v *verifier) page(id uint64) (flags, count uint16, page []byte, err error) {
	if id < 2 || id >= v.next {
		return 0, 0, nil, fmt.Errorf("it leads to page %d of %d", id, v.next)
	}
	at := id * v.size
	if order.Uint64(v.b[at:]) != id {
		return 0, 0, nil, errTree
	}
	flags, count = order.Uint16(v.b[at+8:]), order.Uint16(v.b[at+10:])
	over := uint64(order.Uint32(v.b[at+12:]))
	if id+over >= v.next {
		return 0, 0, nil, errTree
	}
	for i := id; i <= id+over; i++ {
		if v.used[i] {
			return 0, 0, nil, fmt.Errorf("page %d is used twice", i)
		}
		v.used[i] = true
	}
	return flags, count, v.b[at : at+(over+1)*v.size], nil
}

// maxDepth is far more than a tree has: pages have two elements or more.
const maxDepth = 64

// tree walks the pages from id on, whose keys must ascend below high when that is not nil, and begin with low unless it
// is the root: by that key bbolt finds a page in the one above.
func (v *verifier) tree(id uint64, root bool, low, high []byte, depth int) error {
	flags, count, page, err := v.page(id)
	if err != nil {
		return err
	}
	if count == 0 && (!root || flags != leafPage) || depth > maxDepth {
		return errTree
	}
	switch flags {
	case leafPage:
		return v.leaf(page, int(count), low, high, depth, true)
	case branchPage:
		var children []uint64
		var keys [][]byte
		for i := range int(count) {
			if pageHeader+(i+1)*elementSize > len(page) {
				return errTree
			}
			at := pageHeader + i*elementSize
			key, ok := part(page, int(count), at, order.Uint32(page[at:]), order.Uint32(page[at+4:]))
			if !ok || !fits(i, key, low, high) || i > 0 && bytes.Compare(keys[i-1], key) >= 0 {
				return errTree
			}
			keys, children = append(keys, key), append(children, order.Uint64(page[at+8:]))
		}
		keys = append(keys, high)
		for i, c := range children {
			if err := v.tree(c, false, keys[i], keys[i+1], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return errTree
}

// fits tells whether a key may be the one of the element i of a page.
func fits(i int, key, low, high []byte) bool {
	return len(key) > 0 && (i > 0 || low == nil || bytes.Equal(key, low)) &&
		(high == nil || bytes.Compare(key, high) < 0)
}

// part returns what lies behind the elements of a page, as seen from the element at.
func part(page []byte, count, at int, place, size uint32) ([]byte, bool) {
	from := uint64(at) + uint64(place)
	if from < uint64(pageHeader+count*elementSize) || from+uint64(size) > uint64(len(page)) {
		return nil, false
	}
	return page[from : from+uint64(size)], true
}

// leaf walks a leaf page; nested tells whether it may hold buckets.
func (v *verifier) leaf(page []byte, count int, low, high []byte, depth int, nested bool) error {
	var last []byte
	for i := range count {
		at := pageHeader + i*elementSize
		if at+elementSize > len(page) {
			return errTree
		}
		e := page[at:]
		keySize, valueSize := order.Uint32(e[8:]), order.Uint32(e[12:])
		both, ok := part(page, count, at, order.Uint32(e[4:]), keySize)
		if ok {
			both, ok = part(page, count, at, order.Uint32(e[4:]), keySize+valueSize)
		}
		if !ok || uint64(keySize)+uint64(valueSize) != uint64(len(both)) {
			return errTree
		}
		key, value := both[:keySize], both[keySize:]
		if !fits(i, key, low, high) || i > 0 && bytes.Compare(last, key) >= 0 {
			return errTree
		}
		last = key
		switch order.Uint32(e) {
		case 0:
		case bucketElement:
			if !nested {
				return errTree
			}
			if err := v.bucket(value, depth); err != nil {
				return err
			}
		default:
			return errTree
		}
	}
	return nil
}

// bucket walks a bucket: a small one is a page in the value.
func (v *verifier) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return errTree
	}
	if root := order.Uint64(value); root != 0 {
		return v.tree(root, true, nil, nil, depth+1)
	}
	page := value[bucketHeader:]
	if len(page) < pageHeader || order.Uint64(page) != 0 || order.Uint16(page[8:]) != leafPage ||
		order.Uint32(page[12:]) != 0 {
		return errTree
	}
	return v.leaf(page, int(order.Uint16(page[10:])), nil, nil, depth, false)
}

// freelist checks that no page is free that is used, or twice.
func (v *verifier) freelist(id uint64) error {
	flags, count, page, err := v.page(id)
	if err != nil {
		return err
	}
	if flags != freelistPage {
		return errTree
	}
	list := page[pageHeader:]
	n := uint64(count)
	if count == manyFree {
		n, list = order.Uint64(list), list[8:]
	}
	if n > uint64(len(list)/8) {
		return errTree
	}
	for i := range n {
		free := order.Uint64(list[8*i:])
		if free < 2 || free >= v.next || v.used[free] {
			return fmt.Errorf("page %d is free and used", free)
		}
		v.used[free] = true
	}
	return nil
}
