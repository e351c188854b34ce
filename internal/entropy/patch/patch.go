package patch

import "concord/internal/entropy/digest"

// Region asks for the points of one series-field in [Min, Max], nanoseconds.
type Region struct {
	Series   []byte
	Field    string
	Type     digest.Type
	Min, Max int64
}

// Block holds points of one series-field, ascending by time: Data is one
// block in the engine's encoding (type, timestamps, values), see
// tsm1.Values.Encode and tsm1.DecodeBlock.
//
// Versions are those with which the points were written, 0 where that is not known; nil is for none that is known.
type Block struct {
	Series   []byte
	Field    string
	Data     []byte
	Versions []uint64
	Assumed  bool // some of Versions are those of the values that the points replace: their own are not known
}

// Size is what the block costs on its way, about, in bytes.
func (b Block) Size() int64 {
	return int64(len(b.Series) + len(b.Field) + len(b.Data) + 8*len(b.Versions))
}
