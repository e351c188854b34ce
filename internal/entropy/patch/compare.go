package patch

import (
	"bytes"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Compared is how two owners' points of one series-field differ, in points.
type Compared struct {
	LackingA, LackingB int // that the other one has
	ValueConflicts     int // that both have, with different values
}

// Compare compares two owners' points of one series-field, each ascending by time. Values compare by their bits.
func Compare(va, vb tsm1.Values) (c Compared) {
	i, j := 0, 0
	for i < len(va) || j < len(vb) {
		switch {
		case j == len(vb) || i < len(va) && va[i].UnixNano() < vb[j].UnixNano():
			c.LackingB++
			i++
		case i == len(va) || vb[j].UnixNano() < va[i].UnixNano():
			c.LackingA++
			j++
		default:
			if !bytes.Equal(canonical(va[i]), canonical(vb[j])) {
				c.ValueConflicts++
			}
			i, j = i+1, j+1
		}
	}
	return c
}
