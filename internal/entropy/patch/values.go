package patch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// canonical is the fixed order of values: by the bytes of the value, integers
// and float bits as unsigned numbers.
func canonical(v tsm1.Value) []byte {
	switch x := v.Value().(type) {
	case float64:
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(x))
	case int64:
		return binary.BigEndian.AppendUint64(nil, uint64(x))
	case uint64:
		return binary.BigEndian.AppendUint64(nil, x)
	case bool:
		if x {
			return []byte{1}
		}
		return []byte{0}
	case string:
		return []byte(x)
	}
	return nil
}

// shown is a value for people, cut when it is long.
func shown(v tsm1.Value) string {
	s := fmt.Sprint(v.Value())
	return s[:min(len(s), 200)]
}

// Same reports whether two values are equal, bit by bit.
func Same(a, b tsm1.Value) bool { return bytes.Equal(canonical(a), canonical(b)) }
