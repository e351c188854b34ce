package replication

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// withoutTime returns points without the fields that are called time, and why, in the engine's words; empty when none
// is.
//
// The engine (v1.13.2) says that it strips such a field from a point, and stores it all the same (shard.go and
// WritePoints of engine.go): it shows on the owners that open their files anew, and on no other, and cannot be
// repaired. A point that has no other field is left to the engine, which drops it.
func withoutTime(points []models.Point) (left []models.Point, reason string, err error) {
	left = points
	for i, p := range points {
		if !stripped(p) {
			continue
		}
		fields, err := p.Fields()
		if err != nil {
			return nil, "", err
		}
		delete(fields, string(tsdb.TimeBytes))
		without, err := models.NewPoint(string(p.Name()), p.Tags(), fields, p.Time())
		if err != nil {
			return nil, "", err
		}
		if reason == "" {
			left = append([]models.Point(nil), points...) // they are the caller's
			reason = fmt.Sprintf("invalid field name: input field %q on measurement %q is invalid. "+
				"Field %[1]q has been stripped from point.", tsdb.TimeBytes, p.Name())
		}
		left[i] = without
	}
	return left, reason, nil
}

// alsoStripped is the outcome of a write when fields were stripped from its points before.
func alsoStripped(err error, stripped tsdb.PartialWriteError) error {
	var p tsdb.PartialWriteError
	switch {
	case err == nil:
		return stripped
	case errors.As(err, &p):
		return *merge(&stripped, p)
	}
	return err
}

// stripped tells whether a point has a field called time and another one.
func stripped(p models.Point) bool {
	time, other := false, false
	for f := p.FieldIterator(); f.Next(); {
		if bytes.Equal(f.FieldKey(), tsdb.TimeBytes) {
			time = true
		} else {
			other = true
		}
		if time && other {
			return true
		}
	}
	return false
}
