package reconcile

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile/riblt"
)

// Rateless is the Reconciler whose cost is that of the difference: each other
// owner sends coded symbols of its set of windows until what it does not share with
// this node can be read off. It falls back to Flat when there is no copy on this
// node, when lists are cheaper, and when what a peer sends does not decode.
type Rateless struct {
	Dir string // of temporary files; empty for the system's
}

// errListsAreCheaper says that the lists of all owners are the better way.
var errListsAreCheaper = errors.New("not to be decoded from symbols")

// Differences implements Reconciler.
func (r Rateless) Differences(ctx context.Context, owners []Owner, fn func(Difference) error) error {
	diffs, err := r.find(ctx, owners)
	if errors.Is(err, errListsAreCheaper) {
		return Flat{}.Differences(ctx, owners, fn)
	} else if err != nil {
		return err
	}
	for _, d := range diffs {
		if err := fn(d); err != nil {
			return err
		}
	}
	return nil
}

// base returns which owner is this node's, or -1 when the owners cannot be asked for symbols.
func base(owners []Owner) int {
	own := -1
	for i, o := range owners {
		if o.Summarize == nil {
			if own >= 0 {
				return -1
			}
			own = i
		}
	}
	return own
}

func (r Rateless) find(ctx context.Context, owners []Owner) ([]Difference, error) {
	own := base(owners)
	if own < 0 {
		return nil, errListsAreCheaper
	}
	var random [8]byte
	rand.Read(random[:])
	key := binary.LittleEndian.Uint64(random[:])

	all, err := r.summarize(ctx, key, owners, own)
	defer all.close() // the answers are in
	if err != nil {
		return nil, err
	}
	found, err := all.decode(ctx, key)
	if err != nil {
		return nil, err
	}
	c := comparison{key: key, own: own, owners: len(owners), groups: make(map[uint64]*group)}
	for i, d := range found {
		if d != nil {
			c.add(i, d)
		}
	}
	if err := c.name(ctx, all); err != nil {
		return nil, err
	}
	return c.differences()
}

// summaries are the sets of windows of all owners.
type summaries struct {
	owners []Owner
	mine   *Spool    // of this node
	theirs []Summary // of the others, by their place; nil for this node
}

// summarize opens the summaries of all owners. The caller closes what it returns, also with an error.
func (r Rateless) summarize(ctx context.Context, key uint64, owners []Owner, own int) (*summaries, error) {
	all := &summaries{owners: owners, theirs: make([]Summary, len(owners))}
	// Summaries outlive this group's context.
	var open errgroup.Group
	for i, o := range owners {
		open.Go(func() (err error) {
			if i == own {
				all.mine, err = NewSpool(ctx, r.Dir, key, o.List)
			} else {
				all.theirs[i], err = o.Summarize(ctx, key)
			}
			if err != nil {
				return o.failed(err)
			}
			return nil
		})
	}
	err := open.Wait()
	if errors.Is(err, ErrTooLarge) {
		err = errListsAreCheaper
	}
	return all, err
}

func (all *summaries) close() {
	for _, s := range all.theirs {
		if s != nil {
			s.Close()
		}
	}
	if all.mine != nil {
		all.mine.Close()
	}
}

// decode returns what each other owner does not share with this node, by its place.
func (all *summaries) decode(ctx context.Context, key uint64) ([]*riblt.Decoder, error) {
	found := make([]*riblt.Decoder, len(all.theirs))
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range all.theirs {
		if s == nil {
			continue
		}
		g.Go(func() (err error) {
			if found[i], err = decode(ctx, key, all.mine, s); err != nil {
				return all.owners[i].failed(err)
			}
			return nil
		})
	}
	return found, g.Wait()
}

// The first symbols that are asked for. A peer sends the list in about listBytes
// for each element, and symbols in symbolBytes.
const (
	firstBatch  = 32
	listBytes   = 30
	symbolBytes = 23
)

// decode asks a peer for symbols until they tell the difference to mine.
func decode(ctx context.Context, key uint64, mine *Spool, peer Summary) (*riblt.Decoder, error) {
	limit := min(MaxSymbols, 2*firstBatch+peer.Elements()*listBytes/symbolBytes)
	// At least that many elements differ, and each takes about 1.35 symbols.
	if least := abs(mine.Elements() - peer.Elements()); least+least/3 > limit {
		return nil, errListsAreCheaper
	}
	d := riblt.NewDecoder(key)
	for {
		from := d.Len()
		to := min(from+max(firstBatch, from/6), limit)
		if from == to {
			return nil, errListsAreCheaper
		}
		remote, err := peer.Symbols(ctx, from, to)
		if err != nil {
			return nil, err
		}
		local, err := mine.Symbols(ctx, from, to)
		if err != nil {
			return nil, err
		}
		if err := d.Add(remote, local); errors.Is(err, riblt.ErrNonsense) {
			return nil, errListsAreCheaper // the lists are checked otherwise
		} else if err != nil {
			return nil, err
		}
		if d.Done() {
			return d, nil
		}
	}
}

func abs(n int) int { return max(n, -n) }

// change is a window that an owner does not share with this node.
type change struct {
	owner  int
	window int
	typ    digest.Type
	fold   uint64
	theirs bool // the owner has it so; otherwise this node has
}

// group is a series-field that differs somewhere.
type group struct {
	changes []change
	named   bool
	series  []byte
	field   string
	typ     digest.Type            // on this node
	folds   [digest.Windows]uint64 // on this node
}

type comparison struct {
	key         uint64
	own, owners int
	groups      map[uint64]*group
}

func (c *comparison) add(owner int, d *riblt.Decoder) {
	theirs, mine := d.Found()
	for i, elements := range [][]riblt.Element{theirs, mine} {
		for _, e := range elements {
			hash := e[0] >> hashShift
			g := c.groups[hash]
			if g == nil {
				g = &group{}
				c.groups[hash] = g
			}
			g.changes = append(g.changes, change{
				owner: owner, window: int(e[0] >> windowShift % digest.Windows),
				typ: digest.Type(e[0] % (1 << windowShift)), fold: e[1], theirs: i == 0,
			})
		}
	}
}

// name finds what the hashes stand for: in this node's summary, or from an owner that has the series-field.
func (c *comparison) name(ctx context.Context, all *summaries) error {
	if len(c.groups) == 0 {
		return nil
	}
	if err := c.nameMine(ctx, all.mine); err != nil {
		return err
	}
	ask := make([][]uint64, c.owners)
	for hash, g := range c.groups {
		if g.named {
			continue
		}
		has := slices.IndexFunc(g.changes, func(ch change) bool { return ch.theirs })
		if has < 0 {
			return errListsAreCheaper // nobody has it, and yet it differs
		}
		owner := g.changes[has].owner
		ask[owner] = append(ask[owner], hash)
	}
	for owner, hashes := range ask {
		for part := range slices.Chunk(hashes, MaxHashes) {
			if err := c.nameTheirs(ctx, all.theirs[owner], part); err != nil {
				return all.owners[owner].failed(err)
			}
		}
	}
	return nil
}

// nameMine names the series-fields that this node has.
func (c *comparison) nameMine(ctx context.Context, mine *Spool) error {
	return mine.each(ctx, func(r *record) error {
		g := c.groups[r.hash]
		if g == nil {
			return nil
		}
		if g.named {
			return errListsAreCheaper // two series-fields with one hash
		}
		g.named, g.series, g.field, g.typ = true, bytes.Clone(r.series), r.field, r.typ
		r.elements(func(e riblt.Element) { g.folds[e[0]>>windowShift%digest.Windows] = e[1] })
		return nil
	})
}

// nameTheirs asks an owner for the names of series-fields.
func (c *comparison) nameTheirs(ctx context.Context, owner Summary, hashes []uint64) error {
	named := 0
	err := owner.Names(ctx, hashes, func(series []byte, field string) error {
		g := c.groups[HashOf(c.key, series, field)]
		if g == nil || g.named {
			return errListsAreCheaper
		}
		g.named, g.series, g.field = true, bytes.Clone(series), field
		named++
		return nil
	})
	if err == nil && named != len(hashes) {
		return errListsAreCheaper
	}
	return err
}

// differences are those of all owners at once, in order.
func (c *comparison) differences() ([]Difference, error) {
	out := make([]Difference, 0, len(c.groups))
	folds := make([][digest.Windows]uint64, c.owners)
	at := make([]uint64, c.owners)
	for _, g := range c.groups {
		d := Difference{Series: g.series, Field: g.field, Types: make([]digest.Type, c.owners)}
		if err := c.spread(g, folds, d.Types); err != nil {
			return nil, err
		}
		for w := range digest.Windows {
			differs := false
			for i := range folds {
				at[i] = folds[i][w]
			}
			for i := range folds {
				differs = differs || at[i] != at[c.own] || at[i] != 0 && d.Types[i] != d.Types[c.own]
			}
			if differs {
				d.Windows |= 1 << w
				d.Marks = append(d.Marks, Mark(at))
				d.Groups = GroupsOf(d.Groups, at)
			}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(bytes.Compare(a.Series, b.Series), strings.Compare(a.Field, b.Field))
	})
	return out, nil
}

// spread fills in what each owner has of a series-field: what this node has, but for the changes.
func (c *comparison) spread(g *group, folds [][digest.Windows]uint64, types []digest.Type) error {
	for i := range folds {
		folds[i], types[i] = g.folds, g.typ
	}
	for _, ch := range g.changes {
		if !ch.theirs {
			if g.folds[ch.window] != ch.fold || g.typ != ch.typ {
				return errListsAreCheaper // this node has no such window
			}
			folds[ch.owner][ch.window] = 0
		}
	}
	for _, ch := range g.changes {
		if ch.theirs {
			if ch.typ < digest.Float || ch.typ > digest.Unsigned || ch.fold == 0 || folds[ch.owner][ch.window] != 0 {
				return errListsAreCheaper
			}
			folds[ch.owner][ch.window], types[ch.owner] = ch.fold, ch.typ
		}
	}
	for i := range folds {
		if folds[i] == ([digest.Windows]uint64{}) {
			types[i] = 0
		}
	}
	return nil
}
