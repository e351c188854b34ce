package transport

import (
	"errors"
	"fmt"
	"math"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/rpc"
)

// Bounds of what a peer may send.
const (
	maxIDs     = 100_000        // shards of one question
	maxRegions = 4096           // of one Fetch
	maxBlocks  = 1 << 20        // of one message
	maxKey     = math.MaxUint16 // bytes of a series key with its field, as in the engine's files
	chunkBytes = 256 << 10      // of a streamed message; a single larger block is sent alone
)

func toSum(s digest.Sum) *rpc.Sum { return &rpc.Sum{Count: s.Count, Hi: s.Hi, Lo: s.Lo} }

func fromSum(s *rpc.Sum) digest.Sum { return digest.Sum{Count: s.Count, Hi: s.Hi, Lo: s.Lo} }

func checkKey(series, field []byte) error {
	if len(series) == 0 || len(field) == 0 || len(series)+len(field) > maxKey {
		return fmt.Errorf("series key of %d bytes and field of %d bytes are out of bounds", len(series), len(field))
	}
	return nil
}

func checkType(t uint32) error {
	if t < uint32(digest.Float) || t > uint32(digest.Unsigned) {
		return fmt.Errorf("field type %d is unknown", t)
	}
	return nil
}

func toSeriesField(f *digest.SeriesField) *rpc.SeriesField {
	m := &rpc.SeriesField{Series: append([]byte(nil), f.Series...), Field: []byte(f.Field), Type: uint32(f.Type)}
	for w, s := range f.Windows {
		if s != (digest.Sum{}) {
			m.Windows = append(m.Windows, &rpc.WindowSum{Window: uint32(w), Sum: toSum(s)})
		}
	}
	return m
}

// fromSeriesField fills f with what m says.
func fromSeriesField(f *digest.SeriesField, m *rpc.SeriesField) error {
	if err := errors.Join(checkKey(m.Series, m.Field), checkType(m.Type)); err != nil {
		return err
	}
	*f = digest.SeriesField{Series: m.Series, Field: string(m.Field), Type: digest.Type(m.Type)}
	next := uint32(0)
	for _, w := range m.Windows {
		if w.Window < next || w.Window >= digest.Windows || w.Sum == nil {
			return fmt.Errorf("window %d of a digest is out of order or of bounds", w.Window)
		}
		f.Windows[w.Window] = fromSum(w.Sum)
		next = w.Window + 1
	}
	return nil
}

func toBlock(b patch.Block) *rpc.Block {
	return &rpc.Block{Series: b.Series, Field: []byte(b.Field), Data: b.Data}
}

func fromBlock(m *rpc.Block) (patch.Block, error) {
	if err := checkKey(m.Series, m.Field); err != nil {
		return patch.Block{}, err
	}
	if len(m.Data) == 0 {
		return patch.Block{}, errors.New("block is empty")
	}
	typ, err := tsm1.BlockType(m.Data)
	if err != nil {
		return patch.Block{}, err
	}
	if err := checkType(uint32(typ) + 1); err != nil {
		return patch.Block{}, err
	}
	return patch.Block{Series: m.Series, Field: string(m.Field), Data: m.Data}, nil
}
