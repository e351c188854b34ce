package distquery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/influxdata/influxdb/query"

	"concord/internal/cluster"
)

// ErrIncomplete is why a statement fails that must not be answered out of copies that are not whole.
var ErrIncomplete = errors.New("the answer would be incomplete")

// maxNamed is how many shards one warning names.
const maxNamed = 20

// Report gathers the shards of which a statement read no whole copy, and whether there may be shards that this node
// does not know of. A nil Report takes everything, and says nothing.
type Report struct {
	strict bool // such a statement fails
	state  func() *cluster.State
	breaks breaks

	mu     sync.Mutex
	behind error             // the metadata is; nil when it is not, or when a warning said so
	shards map[uint64]string // why, for people
	said   int               // of shards, how many were in a warning
}

// newReport returns the report of a statement that begins. The error is ErrIncomplete when the statement is strict, and
// the metadata of this node is behind that of others.
func newReport(ctx context.Context, strict bool, meta Metadata) (*Report, error) {
	behind := meta.CatchUpWithOthers(ctx)
	if behind != nil && strict {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, behind)
	}
	return &Report{strict: strict, state: meta.State, behind: behind}, nil
}

// add notes that no whole copy of a shard can be read; why says so for each owner. The error is ErrIncomplete when
// the statement is to fail then.
func (r *Report) add(shard uint64, why []string) error {
	if r == nil {
		return nil
	}
	text := r.describe(shard) + " (" + strings.Join(why, "; ") + ")"
	if r.strict {
		return fmt.Errorf("%w: no whole copy can be read of %s", ErrIncomplete, text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shards == nil {
		r.shards = make(map[uint64]string)
	}
	r.shards[shard] = text
	return nil
}

// dropped reports whether a shard does not exist any more.
func (r *Report) dropped(shard uint64) bool {
	if r == nil {
		return false
	}
	_, live := r.state().Shard(shard)
	return !live
}

func (r *Report) describe(shard uint64) string {
	if sh, ok := r.state().Shard(shard); ok {
		return fmt.Sprintf("shard %d of %s.%s", shard, sh.Database, sh.RetentionPolicy)
	}
	return fmt.Sprintf("shard %d", shard)
}

// warning is what there is to say since the last warning, nil for nothing.
func (r *Report) warning() (all []*query.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	say := func(why string) {
		all = append(all, &query.Message{Level: query.WarningLevel, Text: "this answer may be incomplete: " + why})
	}
	if r.behind != nil {
		say(r.behind.Error())
		r.behind = nil
	}
	if len(r.shards) == r.said {
		return all
	}
	r.said = len(r.shards)
	var texts []string
	for _, text := range r.shards {
		texts = append(texts, text)
	}
	slices.Sort(texts)
	more := ""
	if n := len(texts) - maxNamed; n > 0 {
		texts, more = texts[:maxNamed], fmt.Sprintf(", and %d more", n)
	}
	say("no whole copy can be read of " + strings.Join(texts, ", ") + more)
	return all
}
