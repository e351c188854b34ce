package patch

import (
	"bytes"
	"fmt"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Compared is how two owners' points of one series-field differ, in points.
type Compared struct {
	MissingA, MissingB int // that the other one has
	Conflicts          int // that both have, with different values
}

// Compare compares two owners' points of one series-field. Values compare by their bits.
func Compare(a, b []Block) (c Compared, err error) {
	va, err := decodeAll(a)
	if err != nil {
		return c, err
	}
	vb, err := decodeAll(b)
	if err != nil {
		return c, err
	}
	i, j := 0, 0
	for i < len(va) || j < len(vb) {
		switch {
		case j == len(vb) || i < len(va) && va[i].UnixNano() < vb[j].UnixNano():
			c.MissingB++
			i++
		case i == len(va) || vb[j].UnixNano() < va[i].UnixNano():
			c.MissingA++
			j++
		default:
			if !bytes.Equal(canonical(va[i]), canonical(vb[j])) {
				c.Conflicts++
			}
			i, j = i+1, j+1
		}
	}
	return c, nil
}

// decodeAll returns the points of blocks, which must ascend by time.
func decodeAll(blocks []Block) (out tsm1.Values, err error) {
	for _, b := range blocks {
		vs, err := b.Decode()
		if err != nil {
			return nil, err
		}
		for _, v := range vs {
			if n := len(out); n > 0 && v.UnixNano() <= out[n-1].UnixNano() {
				return nil, fmt.Errorf("points of %s %s are out of order", b.Series, b.Field)
			}
			out = append(out, v)
		}
	}
	return out, nil
}
