// Package tsmfile is what the packages that read the engine's files share: the engine of a shard, the form of its keys,
// where its files are, and the error of a read that meets damage.
package tsmfile

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// KeyFieldSeparator stands between the series key and the field in the engine's keys.
const KeyFieldSeparator = "#!~#"

// Damage is what is wrong with a file of a shard. It is an error of a read that meets it.
type Damage struct {
	File   string // its name
	Offset int64  // of the damaged part in the file, -1 when it is the file
	Key    string // the engine's key of the series-field whose block it is; empty when it is not a block
	Reason string
}

func (d *Damage) Error() string {
	if d.Offset < 0 {
		return fmt.Sprintf("%s is damaged: %s", d.File, d.Reason)
	}
	what := "byte"
	if d.Key != "" {
		what = fmt.Sprintf("block of %q at byte", strings.Replace(d.Key, KeyFieldSeparator, " ", 1))
	}
	return fmt.Sprintf("%s is damaged: %s %d: %s", d.File, what, d.Offset, d.Reason)
}

// Glob lists what matches a pattern below dir, as filepath.Glob does. The characters of dir itself have no meaning.
// Shards are in dir/database/policy/shard.
func Glob(dir string, pattern ...string) ([]string, error) {
	dir = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
	return filepath.Glob(filepath.Join(append([]string{dir}, pattern...)...))
}

// EngineOf returns the engine of a shard.
func EngineOf(shard *tsdb.Shard) (*tsm1.Engine, error) {
	e, err := shard.Engine()
	if err != nil {
		return nil, err
	}
	engine, ok := e.(*tsm1.Engine)
	if !ok {
		return nil, fmt.Errorf("shard %d has the unknown engine %T", shard.ID(), e)
	}
	return engine, nil
}
