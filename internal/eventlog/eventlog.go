// Package eventlog keeps what a node's log says that people want to know of: every warning and every error, and the
// good news that ends them. The page of the cluster shows them.
//
// The log is the one source: what is worth an event is worth a line in the log, and an operator finds the same words in
// both. A message of the level info is an event when it is in kinds; a test checks that each of them is still logged.
package eventlog

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// Kept is how many events a node keeps.
	Kept = 1000
	// sameAgain is within which time an event that says the same as an earlier one is left out.
	sameAgain = time.Minute
	// maxText bounds the text of an event, in bytes.
	maxText = 600
)

// Event is a line of the log.
type Event struct {
	Number uint64 // 1 for the first one of the process
	Time   time.Time
	Level  string // info, warn or error
	Kind   string // one of those in kinds, or "other"
	Text   string
	Shard  uint64 // that it is about; 0 for none
}

// kinds says what messages are about. Those that are logged as info are events because they are here.
var kinds = map[string]string{
	"A data node does not answer":                        "node",
	"A data node answers again":                          "node",
	"This node serves":                                   "node",
	"This node serves nothing":                           "node",
	"This node serves nothing until it is started again": "node",
	"Cannot follow the metadata: serving the copy":       "meta",
	"Following the metadata again":                       "meta",
	"A data node does not take changes of the metadata: they are confirmed without it until it does": "meta",
	"A data node takes changes of the metadata again":                                                "meta",
	"Found entropy":                         "entropy",
	"Repair done":                           "repair",
	"Repair stopped":                        "repair",
	"Repair failed and will be tried again": "repair",
	"Repair needs an operator: owners refuse points that others have":                 "repair",
	"Copied the files of a missing shard":                                             "repair",
	"The rate of repairs was changed":                                                 "action",
	"An operator asked for an action on the page":                                     "action",
	"A file of a shard is damaged":                                                    "damage",
	"Damaged files were set aside":                                                    "damage",
	"A damaged copy is healed":                                                        "damage",
	"Dropped hinted handoff entries: anti-entropy has to repair the shard":            "hints",
	"Dropped what a data node misses: anti-entropy has to repair it":                  "hints",
	"Forgot hinted handoff entries":                                                   "hints",
	"A data node does not take what hinted handoff keeps for it: this is tried again": "hints",
	"A data node takes what hinted handoff keeps for it again":                        "hints",
	"Set a hinted handoff queue aside":                                                "hints",
	"Set aside what hinted handoff kept for other nodes: it is not sent any more":     "hints",
	"Kept the files of a copy that is made anew":                                      "copy",
	"A delete did not reach every node":                                               "delete",
	"The disk is full: a shard takes no writes until there is space":                  "disk",
	"There is space again: a shard takes writes":                                      "disk",
	"Copied a shard":         "copy",
	"Copy of a shard failed": "copy",
	"Made a missing shard out of another owner's files":       "copy",
	"A copy is whole again":                                   "copy",
	"Users or roles were changed":                             "users",
	"The clock of another node agrees with this node's again": "clock",
	"The clock of another node differs from this node's by more than a second: set both, with NTP for example": "clock",
}

// Log is the events of one node. The zero value is ready.
type Log struct {
	mu   sync.Mutex
	last uint64
	list []Event              // the oldest first
	said map[string]time.Time // texts, and when
}

// Of is a logger that also tells the events.
func (l *Log) Of(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewTee(c, &core{log: l})
	}))
}

// After returns the events with greater numbers, the oldest first.
func (l *Log) After(number uint64) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := 0
	if left := l.last - min(number, l.last); left < uint64(len(l.list)) {
		i = len(l.list) - int(left)
	}
	return slices.Clone(l.list[i:])
}

func (l *Log) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := e.Level + e.Text
	if at, ok := l.said[key]; ok && e.Time.Sub(at) < sameAgain {
		return
	}
	if l.said == nil || len(l.said) > Kept {
		l.said = make(map[string]time.Time)
	}
	l.said[key] = e.Time
	l.last++
	e.Number = l.last
	if l.list = append(l.list, e); len(l.list) > Kept {
		l.list = slices.Delete(l.list, 0, len(l.list)-Kept)
	}
}

// core makes events of lines of the log.
type core struct {
	log  *Log
	with []zapcore.Field
}

// Enabled reports whether lines of a level may be events.
func (c *core) Enabled(level zapcore.Level) bool { return level >= zapcore.InfoLevel }

// With is a core whose lines have more fields.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.log, slices.Concat(c.with, fields)}
}

// Check takes a line that is an event.
func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if _, known := kinds[e.Message]; known && e.Level >= zapcore.InfoLevel || e.Level >= zapcore.WarnLevel {
		return checked.AddCore(e, c)
	}
	return checked
}

// plain are fields that say nothing to people: which part of the node speaks, and what the event has besides its text.
var plain = map[string]bool{
	"service": true, "db_shard_id": true, "data_node": true, "extra_data_node": true,
	"log_id": true, "stack": true, "engine": true,
}

// names are what people call fields that have the engine's names in the log.
var names = map[string]string{"db_instance": "database", "db_rp": "policy"}

// Write keeps an event.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	var text strings.Builder
	text.WriteString(e.Message)
	sep := ": "
	for _, f := range slices.Concat(c.with, fields) {
		f.AddTo(values)
		v, ok := values.Fields[f.Key]
		if !ok || plain[f.Key] || v == "" {
			continue
		}
		name, ok := names[f.Key]
		if !ok {
			name = strings.ReplaceAll(f.Key, "_", " ")
		}
		fmt.Fprintf(&text, "%s%s %v", sep, name, v)
		sep = ", "
	}
	out := Event{Time: e.Time, Level: e.Level.String(), Kind: kinds[e.Message], Text: text.String()}
	if out.Kind == "" {
		out.Kind = "other"
	}
	if len(out.Text) > maxText {
		out.Text = strings.ToValidUTF8(out.Text[:maxText], "") + "…"
	}
	out.Shard, _ = values.Fields["db_shard_id"].(uint64)
	c.log.add(out)
	return nil
}

// Sync has nothing to do.
func (c *core) Sync() error { return nil }
