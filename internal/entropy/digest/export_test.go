package digest

import "fmt"

// PointSum is the digest of one point, computed from the definition alone.
func PointSum(key uint64, series, field string, typ Type, t int64, value any) Sum {
	s, _ := newSeed(key, []byte(series), field, typ, nil)
	times := []int64{t}
	switch v := value.(type) {
	case float64:
		return s.floats(times, []float64{v})
	case int64:
		return s.integers(times, []int64{v})
	case uint64:
		return s.unsigned(times, []uint64{v})
	case bool:
		return s.booleans(times, []bool{v})
	case string:
		return s.strings(times, []string{v})
	}
	panic(fmt.Sprintf("a value of type %T", value))
}
