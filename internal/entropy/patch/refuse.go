package patch

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/tsmfile"
)

// Applied is what became of the points of blocks.
type Applied struct {
	Points  int       // that were written
	Refused []Refused // blocks that were not, in their order
}

// Refused is a block that the engine refuses.
type Refused struct {
	Block  int         // its place among the blocks that were to be applied
	Points int         // in it
	Type   digest.Type // of the field in the shard, when it is not the block's; 0 for another reason
	Reason string      // the engine's
}

// refuser gathers what the engine refuses.
type refuser struct {
	shard  *tsdb.Shard
	blocks []parsed // all
	out    *Applied
}

// measurementField is a field of a measurement, which has one type in a shard.
type measurementField struct{ measurement, field string }

// check returns the blocks that the engine may take, and refuses the others. The engine would refuse them, too, but not
// without harm: it makes a new series, without points, for a point with a field of another type, and see series. Of a
// new field that comes in two types the first one counts.
func (r *refuser) check() ([]parsed, error) {
	engine, err := tsmfile.EngineOf(r.shard)
	if err != nil {
		return nil, err
	}
	fields := engine.MeasurementFieldSet()
	types := make(map[measurementField]digest.Type)
	var left []parsed
	for _, p := range r.blocks {
		name := models.ParseName(p.Series)
		if p.Field == timeField {
			r.refuse(p, fmt.Sprintf("invalid field name: input field %q on measurement %q is invalid", p.Field, name))
			continue
		}
		at := measurementField{string(name), p.Field}
		have, ok := types[at]
		if !ok {
			have = p.typ()
			if of := fields.Fields(name); of != nil {
				if f := of.Field(p.Field); f != nil {
					have, _ = digest.TypeOf(f.Type)
				}
			}
			types[at] = have
		}
		if have != p.typ() {
			r.add(p, have, fmt.Sprintf("%s: input field %q on measurement %q is type %s, already exists as type %s",
				tsdb.ErrFieldTypeConflict, p.Field, name, p.typ(), have))
			continue
		}
		left = append(left, p)
	}
	if r.shard.IndexType() != tsdb.InmemIndexName {
		return left, nil
	}
	return r.series(engine, left)
}

// series makes the series of blocks in an index that limits their number, and refuses the blocks of those that are
// too many.
//
// In a write with a refused series the engine mixes the series up (inmem.go of v1.13.2 moves the keys by which
// shard.go then knows which points to leave out): it stores points that it refuses, which show after a restart, and
// leaves out others.
func (r *refuser) series(engine *tsm1.Engine, blocks []parsed) ([]parsed, error) {
	reasons := make(map[string]string) // by series; empty for one that is taken
	var left []parsed
	for _, p := range blocks {
		reason, known := reasons[string(p.Series)]
		if !known {
			name, tags := models.ParseKeyBytes(p.Series)
			key := models.MakeKey(name, tags)
			if !bytes.Equal(key, p.Series) { // pointsOf refuses it
				left = append(left, p)
				continue
			}
			err := engine.CreateSeriesListIfNotExists([][]byte{key}, [][]byte{name}, []models.Tags{tags},
				tsdb.NoopStatsTracker())
			if err != nil {
				var ok bool
				if reason, ok = refusal(err); !ok {
					return nil, err
				}
			}
			reasons[string(p.Series)] = reason
		}
		if reason != "" {
			r.add(p, 0, reason)
		} else {
			left = append(left, p)
		}
	}
	return left, nil
}

// timeField is the name that no field may have.
const timeField = "time"

// refuse adds what the engine refused.
func (r *refuser) refuse(p parsed, reason string) {
	var other digest.Type
	if of := r.shard.MeasurementFields(models.ParseName(p.Series)); of != nil {
		if f := of.Field(p.Field); f != nil {
			if t, ok := digest.TypeOf(f.Type); ok && t != p.typ() { // a write made the field meanwhile
				other = t
			}
		}
	}
	r.add(p, other, reason)
}

func (r *refuser) add(p parsed, have digest.Type, reason string) {
	r.out.Refused = append(r.out.Refused, Refused{Block: p.at, Points: p.Points, Type: have, Reason: reason})
}

// end puts the blocks in their order.
func (r *refuser) end() {
	slices.SortFunc(r.out.Refused, func(a, b Refused) int { return cmp.Compare(a.Block, b.Block) })
}
