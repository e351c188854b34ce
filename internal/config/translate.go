package config

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/agnivade/levenshtein"
	itoml "github.com/influxdata/influxdb/toml"
)

// Foreign is what files of InfluxDB 1.x and of its clusters have that Concord calls by another name, or does without.
// A name is "key", "[section]" or "[section] key".
type Foreign struct {
	Renamed map[string]string // their name -> the name here
	Idle    map[string]string // their name -> what does its job here, a sentence without its full stop
}

// Notes are what was found in a file that has no effect. A struct of settings embeds it, with the tag toml:"-".
type Notes []string

// Noted returns the notes.
func (n *Notes) Noted() *Notes { return n }

// translate makes what a file has into what this program knows: it renames, takes out what has no function here, with a
// note for each, and writes durations of days and weeks as hours.
func (p Program[C]) translate(file map[string]any, c C) (text string, err error) {
	sectionsFirst := func(a, b string) int { return cmp.Or(len(split(a))-len(split(b)), cmp.Compare(a, b)) }
	for _, from := range slices.SortedFunc(maps.Keys(p.Foreign.Renamed), sectionsFirst) {
		if err := rename(file, split(from), split(p.Foreign.Renamed[from])); err != nil {
			return "", err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Foreign.Idle)) {
		if _, ok := take(file, split(name)); ok {
			n := c.Noted()
			*n = append(*n, fmt.Sprintf("%s has no effect: %s", name, p.Foreign.Idle[name]))
		}
	}
	for _, f := range fields(reflect.ValueOf(c).Elem()) {
		if list(f.value.Type()) {
			fill(f.value, file, f.key())
		}
	}
	for _, s := range settings(reflect.ValueOf(c).Elem()) {
		lengthen(file, s)
	}
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(file); err != nil {
		return "", err
	}
	return b.String(), nil
}

// split is a name as a path.
func split(name string) []string {
	section, key, found := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	switch {
	case found:
		return []string{section, key}
	case strings.HasPrefix(name, "["):
		return []string{strings.TrimSuffix(section, "]")}
	}
	return []string{name}
}

// take removes what is at a path, and returns it.
func take(file map[string]any, path []string) (v any, ok bool) {
	for ; len(path) > 1; path = path[1:] {
		if file, ok = file[path[0]].(map[string]any); !ok {
			return nil, false
		}
	}
	v, ok = file[path[0]]
	delete(file, path[0])
	return v, ok
}

// fill gives a list as many sections with defaults as the file has of it. One that the file has alone, as [name], is a
// list of one.
func fill(of reflect.Value, file map[string]any, name string) {
	if one, ok := file[name].(map[string]any); ok {
		file[name] = []map[string]any{one}
	}
	tables, ok := file[name].([]map[string]any)
	if !ok {
		return
	}
	of.Set(reflect.MakeSlice(of.Type(), len(tables), len(tables)))
	for i := range tables {
		if d, ok := of.Index(i).Addr().Interface().(itoml.Defaulter); ok {
			d.ApplyDefaults()
		}
	}
}

// rename moves what is at a path. Sections are merged.
func rename(file map[string]any, from, to []string) error {
	v, ok := take(file, from)
	if !ok {
		return nil
	}
	at := file
	for _, key := range to[:len(to)-1] {
		next, ok := at[key].(map[string]any)
		if !ok {
			next = make(map[string]any)
			at[key] = next
		}
		at = next
	}
	last := to[len(to)-1]
	there, exists := at[last]
	section, isSection := v.(map[string]any)
	if into, ok := there.(map[string]any); ok && isSection {
		for key, value := range section {
			if _, twice := into[key]; twice {
				return fmt.Errorf("%s and %s are the same setting", name(append(from, key)), name(append(to, key)))
			}
			into[key] = value
		}
		return nil
	}
	if exists {
		return fmt.Errorf("%s and %s are the same setting", name(from), name(to))
	}
	at[last] = v
	return nil
}

// lengthen writes a duration of days or weeks as hours.
func lengthen(file map[string]any, s setting) {
	switch s.value.Addr().Interface().(type) {
	case *itoml.Duration, *time.Duration:
	default:
		return
	}
	at := file
	if n, ok := number(s.path); ok {
		tables, ok := at[s.path[0]].([]map[string]any)
		if !ok || n >= len(tables) {
			return
		}
		at = tables[n]
	} else if len(s.path) == 2 {
		if at, ok = at[s.path[0]].(map[string]any); !ok {
			return
		}
	}
	if text, ok := at[s.key()].(string); ok {
		at[s.key()] = inHours(text)
	}
}

var longUnits = regexp.MustCompile(`(\d+)([dw])`)

// inHours writes the days and weeks of a duration as hours: InfluxDB has them in its statements, and in its documents
// of the settings.
func inHours(text string) string {
	return longUnits.ReplaceAllStringFunc(text, func(part string) string {
		n, err := strconv.ParseInt(part[:len(part)-1], 10, 32)
		if err != nil {
			return part // too long, as the decoder says
		}
		if strings.HasSuffix(part, "w") {
			n *= 7
		}
		return strconv.FormatInt(24*n, 10) + "h"
	})
}

// nearest is the known name that is most like a name, empty when none is alike.
func nearest(to string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	distance := func(s string) int { return levenshtein.ComputeDistance(to, s) }
	best := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(a), distance(b)) })
	if distance(best) > max(2, len(to)/4) {
		return ""
	}
	return best
}
