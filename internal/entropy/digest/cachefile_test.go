package digest

import (
	"bytes"
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
		if rest, err := decodeRecord(c, &again); err != nil || len(rest) != 0 || !bytes.Equal(appendRecord(nil, &again), c) {
			t.Fatalf("%x became %x", b, c)
		}
	})
}
