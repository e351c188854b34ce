package transport

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy"
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
	maxPoints  = 1 << 20        // of one block
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

func toRegions(regions []patch.Region) []*rpc.Region {
	out := make([]*rpc.Region, len(regions))
	for i, r := range regions {
		out[i] = &rpc.Region{Type: uint32(r.Type), Min: r.Min, Max: r.Max}
		if i == 0 || r.Field != regions[i-1].Field || !bytes.Equal(r.Series, regions[i-1].Series) {
			out[i].Series, out[i].Field = r.Series, []byte(r.Field)
		}
	}
	return out
}

// fromRegions returns what a question asks for.
func fromRegions(shard uint64, in []*rpc.Region) ([]patch.Region, error) {
	if shard == 0 || len(in) > maxRegions {
		return nil, fmt.Errorf("%d regions of shard %d are not valid", len(in), shard)
	}
	out := make([]patch.Region, len(in))
	for i, m := range in {
		r := &out[i]
		*r = patch.Region{Series: m.Series, Field: string(m.Field), Type: digest.Type(m.Type), Min: m.Min, Max: m.Max}
		if i > 0 && len(m.Series) == 0 && len(m.Field) == 0 {
			r.Series, r.Field = out[i-1].Series, out[i-1].Field
		} else if err := checkKey(m.Series, m.Field); err != nil {
			return nil, err
		}
		if err := checkType(m.Type); err != nil {
			return nil, err
		}
		if m.Min > m.Max {
			return nil, fmt.Errorf("region [%d, %d] is empty", m.Min, m.Max)
		}
	}
	return out, nil
}

func toBlock(b patch.Block) *rpc.Block {
	return &rpc.Block{Series: b.Series, Field: []byte(b.Field), Data: b.Data, Versions: b.Versions, Assumed: b.Assumed}
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
	return patch.Block{Series: m.Series, Field: string(m.Field), Data: m.Data, Versions: m.Versions, Assumed: m.Assumed}, nil
}

// maxReason bounds why a block is refused, in bytes.
const maxReason = 1000

func toApplied(a patch.Applied) *rpc.ApplyResponse {
	m := &rpc.ApplyResponse{Points: uint64(a.Points)}
	places := make(map[string]uint32)
	for _, r := range a.Refused {
		reason := r.Reason[:min(len(r.Reason), maxReason)]
		at, ok := places[reason]
		if !ok {
			at = uint32(len(m.Reasons))
			places[reason], m.Reasons = at, append(m.Reasons, []byte(reason))
		}
		m.Refused = append(m.Refused, &rpc.ApplyResponse_Refused{Block: uint32(r.Block), Points: uint64(r.Points), Type: uint32(r.Type), Reason: at})
	}
	return m
}

// fromApplied returns what became of so many blocks.
func fromApplied(m *rpc.ApplyResponse, blocks int) (patch.Applied, error) {
	out := patch.Applied{Points: int(min(m.Points, math.MaxInt64))}
	for i, r := range m.Refused {
		if uint64(r.Block) >= uint64(blocks) || i > 0 && r.Block <= m.Refused[i-1].Block || uint64(r.Reason) >= uint64(len(m.Reasons)) || r.Points > maxPoints {
			return out, fmt.Errorf("refused block %d of %d is out of order or of bounds", r.Block, blocks)
		}
		reason := m.Reasons[r.Reason]
		if len(reason) == 0 || len(reason) > maxReason {
			return out, fmt.Errorf("a reason of %d bytes is out of bounds", len(reason))
		}
		if r.Type != 0 {
			if err := checkType(r.Type); err != nil {
				return out, err
			}
		}
		out.Refused = append(out.Refused, patch.Refused{Block: int(r.Block), Points: int(r.Points), Type: digest.Type(r.Type), Reason: string(reason)})
	}
	return out, nil
}

func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromStamp(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func toRecord(r entropy.RepairRecord) *rpc.RepairRecord {
	m := &rpc.RepairRecord{
		ShardId: r.ShardID, State: string(r.State), Owners: r.Owners, Added: stamp(r.Added), Started: stamp(r.Started), Ended: stamp(r.Ended),
		Attempts: int64(r.Attempts), Rounds: int64(r.Rounds), Total: int64(r.Total), Fixed: int64(r.Fixed), Copied: r.Copied, Copying: r.Copying, Points: int64(r.Points),
		ValueConflicts: int64(r.Conflicts), BytesRx: r.BytesRx, BytesTx: r.BytesTx, Rate: r.Rate, Eta: int64(r.ETA), Error: r.Error,
		Refused: int64(r.Refused),
	}
	for _, d := range r.Refusals {
		m.Refusals = append(m.Refusals, &rpc.RepairRecord_Refusal{Node: d.Node, Series: []byte(d.Series), Field: []byte(d.Field), Reason: []byte(d.Reason)})
	}
	m.Decided = toDecisions(r.Decided)
	return m
}

func fromRecord(m *rpc.RepairRecord) entropy.RepairRecord {
	r := entropy.RepairRecord{
		ShardID: m.ShardId, State: entropy.RepairState(m.State), Owners: m.Owners, Added: fromStamp(m.Added), Started: fromStamp(m.Started), Ended: fromStamp(m.Ended),
		Attempts: int(m.Attempts), Rounds: int(m.Rounds), Total: int(m.Total), Fixed: int(m.Fixed), Copied: m.Copied, Copying: m.Copying, Points: int(m.Points),
		Conflicts: int(m.ValueConflicts), BytesRx: m.BytesRx, BytesTx: m.BytesTx, Rate: m.Rate, ETA: time.Duration(m.Eta), Error: m.Error,
		Refused: int(m.Refused),
	}
	for _, d := range m.Refusals {
		r.Refusals = append(r.Refusals, entropy.Refusal{Node: d.Node, Series: string(d.Series), Field: string(d.Field), Reason: string(d.Reason)})
	}
	r.Decided = fromDecisions(m.Decided)
	return r
}

func toDecisions(of []entropy.Decision) (out []*rpc.RepairRecord_Decision) {
	for _, d := range of {
		m := &rpc.RepairRecord_Decision{
			Series: []byte(d.Series), Field: []byte(d.Field), Time: d.Time, Value: []byte(d.Value), Why: d.Why, Open: d.Open,
		}
		for _, h := range d.Held {
			m.Held = append(m.Held, &rpc.RepairRecord_Held{
				Node: h.Node, Value: []byte(h.Value), Version: h.Version, Bound: h.Bound,
			})
		}
		out = append(out, m)
	}
	return out
}

func fromDecisions(of []*rpc.RepairRecord_Decision) (out []entropy.Decision) {
	for _, m := range of {
		d := entropy.Decision{
			Series: string(m.Series), Field: string(m.Field), Time: m.Time, Value: string(m.Value), Why: m.Why, Open: m.Open,
		}
		for _, h := range m.Held {
			d.Held = append(d.Held, entropy.Held{Node: h.Node, Value: string(h.Value), Version: h.Version, Bound: h.Bound})
		}
		out = append(out, d)
	}
	return out
}

func toDiff(d entropy.DryRun) *rpc.DiffResponse {
	m := &rpc.DiffResponse{
		Owners: d.Owners, Away: d.Away, Bytes: d.Bytes, Count: int64(d.Count), Truncated: d.Truncated,
		TypeConflicts: d.TypeConflicts,
	}
	for _, p := range d.Pairs {
		m.Pairs = append(m.Pairs, &rpc.DiffResponse_Pair{
			A: p.A, B: p.B, LackingA: int64(p.LackingA), LackingB: int64(p.LackingB), ValueConflicts: int64(p.ValueConflicts),
		})
	}
	m.Decided = toDecisions(d.Decided)
	for _, f := range d.Fields {
		m.Fields = append(m.Fields, &rpc.DiffResponse_Field{Series: []byte(f.Series), Field: []byte(f.Field), Start: f.Start, End: f.End})
	}
	return m
}

func fromDiff(m *rpc.DiffResponse) entropy.DryRun {
	d := entropy.DryRun{
		Owners: m.Owners, Away: m.Away, Bytes: m.Bytes, Count: int(m.Count), Truncated: m.Truncated,
		TypeConflicts: m.TypeConflicts,
	}
	for _, p := range m.Pairs {
		d.Pairs = append(d.Pairs, entropy.PairDiff{A: p.A, B: p.B, Compared: patch.Compared{
			LackingA: int(p.LackingA), LackingB: int(p.LackingB), ValueConflicts: int(p.ValueConflicts),
		}})
	}
	d.Decided = fromDecisions(m.Decided)
	for _, f := range m.Fields {
		d.Fields = append(d.Fields, entropy.FieldDiff{Series: string(f.Series), Field: string(f.Field), Start: f.Start, End: f.End})
	}
	return d
}
