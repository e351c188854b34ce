package patch

import (
	"context"
	"fmt"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/tsmfile"
)

// parsed is a block that was found to decode.
type parsed struct {
	Block
	Span
	at  int    // place among the blocks to apply
	key []byte // the engine's
}

// typ is the type of the points.
func (p parsed) typ() digest.Type { return digest.Type(p.Data[0] + 1) }

// parse checks that blocks decode.
func parse(ctx context.Context, blocks []Block) ([]parsed, error) {
	var spans Spans
	var err error
	out := make([]parsed, len(blocks))
	work := pace.Begin(ctx)
	for i, b := range blocks {
		if err := work.Rest(); err != nil {
			return nil, err
		}
		p := parsed{Block: b, at: i}
		if len(b.Series) == 0 || b.Field == "" {
			return nil, fmt.Errorf("%w: no measurement or no field", ErrMalformed)
		}
		if p.Span, err = spans.Of(b); err != nil {
			return nil, err
		}
		if b.Versions != nil && len(b.Versions) != p.Points {
			return nil, fmt.Errorf("%w: %d versions of %d points", ErrMalformed, len(b.Versions), p.Points)
		}
		p.key = make([]byte, 0, len(b.Series)+len(tsmfile.KeyFieldSeparator)+len(b.Field))
		p.key = append(append(append(p.key, b.Series...), tsmfile.KeyFieldSeparator...), b.Field...)
		out[i] = p
	}
	return out, nil
}

// first is a block of the first point.
func (p parsed) first() (Block, error) {
	v, err := p.Decode()
	if err != nil {
		return Block{}, err
	}
	return NewBlock(p.Series, p.Field, v[:1])
}
