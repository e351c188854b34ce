package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	itoml "github.com/influxdata/influxdb/toml"
)

func (p Program[C]) load(path string, getenv func(string) string) (C, error) {
	c := p.New()
	var file *document
	if path != "" {
		var err error
		if file, err = p.read(path, c); err != nil {
			return c, err
		}
	}
	set := make(map[string]bool) // by variable
	for _, s := range settings(reflect.ValueOf(c).Elem()) {
		ok, err := fromEnvironment(s, getenv)
		if err != nil {
			return c, fmt.Errorf("%s: %w", s.variable(), err)
		}
		set[s.variable()] = ok
	}
	if err := c.Validate(); err != nil {
		return c, p.blame(c, err, file, set)
	}
	return c, nil
}

// fromEnvironment gives a setting the value of its environment variable, where
// it has one.
func fromEnvironment(s setting, getenv func(string) string) (set bool, err error) {
	if d, ok := s.value.Addr().Interface().(*time.Duration); ok {
		// The engine would take a number of nanoseconds only.
		if text := strings.TrimSpace(getenv(s.variable())); text != "" {
			set = true
			*d, err = time.ParseDuration(text)
		}
		return set, err
	}
	applied, err := itoml.ApplyEnvOverrides(getenv, s.variable(), s.value.Addr().Interface())
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // the outer one names Go types
	}
	return len(applied) > 0, err
}

// blame says where the setting was given that Validate refuses: it is the one
// without which Validate says nothing or something else. That holds whatever
// the words of err are, and the engine's often do not name the setting. What
// switches a section on comes last: without it, nothing in there is refused.
func (p Program[C]) blame(c C, err error, file *document, set map[string]bool) error {
	before := defaults(reflect.ValueOf(p.New()).Elem())
	all := settings(reflect.ValueOf(c).Elem())
	switches := func(s setting) int {
		if s.key() == "enabled" {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b setting) int { return switches(a) - switches(b) })
	for _, s := range all {
		inFile := file != nil && file.defined(s.path)
		if !set[s.variable()] && !inFile {
			continue
		}
		was := reflect.New(s.value.Type()).Elem()
		was.Set(s.value)
		s.value.Set(before[s.name()])
		without := c.Validate()
		s.value.Set(was)
		if without != nil && without.Error() == err.Error() {
			continue
		}
		reason := reason(s, err)
		if set[s.variable()] {
			return fmt.Errorf("%s: %s", s.variable(), reason)
		}
		return file.errorf(s.path, "%s", reason)
	}
	if file != nil {
		return fmt.Errorf("%s: %w", file.path, err)
	}
	return fmt.Errorf("configuration: %w", err)
}

// reason is err without the name of the setting before it.
func reason(s setting, err error) string {
	text := err.Error()
	if len(s.path) > 1 {
		text = strings.TrimPrefix(text, "["+s.path[0]+"] ")
	}
	if rest, ok := strings.CutPrefix(text, s.key()); ok &&
		(strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, ":")) {
		text = strings.TrimLeft(rest, ": ")
	}
	return text
}

// document is a file that was read.
type document struct {
	path string
	text string
	meta toml.MetaData // of the text as it was translated

	renamed map[string]string
	lists   map[string]bool // sections of which there may be several
}

func (d *document) defined(path []string) bool {
	if _, ok := number(path); ok {
		return d.line(path) > 0
	}
	return d.meta.IsDefined(path...)
}

// errorf is an error about one key of the file, with its line.
func (d *document) errorf(path []string, format string, args ...any) error {
	where := d.path
	for _, path := range append([][]string{path}, d.before(path)...) {
		if n := d.line(path); n > 0 {
			return fmt.Errorf("%s:%d: %s: %s", where, n, name(path), fmt.Sprintf(format, args...))
		}
	}
	return fmt.Errorf("%s: %s: %s", where, name(path), fmt.Sprintf(format, args...))
}

// before are the names that a key may have had in the file.
func (d *document) before(path []string) (out [][]string) {
	for from, to := range d.renamed {
		if old, now := split(from), split(to); len(now) <= len(path) && slices.Equal(now, path[:len(now)]) {
			out = append(out, slices.Concat(old, path[len(now):]))
		}
	}
	return out
}

// atLine are the library's errors that have a line and a key; not all are toml.ParseError.
var atLine = regexp.MustCompile(`(?s)^toml: line (\d+)(?: \(last key "(.*?)"\))?: (.*)$`)

// read decodes the file at path over c.
func (p Program[C]) read(path string, c C) (*document, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	d := &document{path: path, text: string(b), renamed: p.Foreign.Renamed, lists: make(map[string]bool)}
	for _, s := range sections(reflect.ValueOf(c).Elem()) {
		d.lists[s.name] = s.list
	}
	tables := make(map[string]any)
	if _, err := toml.Decode(d.text, &tables); err != nil {
		if m := atLine.FindStringSubmatch(err.Error()); m != nil {
			return nil, fmt.Errorf("%s:%s: this is not TOML: %s", path, m[1], m[3])
		}
		return nil, fmt.Errorf("%s: this is not TOML: %w", path, err)
	}
	text, err := p.translate(tables, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if d.meta, err = toml.Decode(text, c); err != nil {
		if m := atLine.FindStringSubmatch(err.Error()); m != nil {
			return nil, d.errorf(strings.Split(m[2], "."), "%s", m[3])
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var unknown []string
	reported := make(map[string]bool)
	for _, key := range d.meta.Undecoded() {
		if len(key) > 1 && reported[toml.Key(key[:len(key)-1]).String()] {
			reported[key.String()] = true // in a section that is unknown itself
			continue
		}
		reported[key.String()] = true
		what := "unknown setting"
		if strings.HasSuffix(d.meta.Type(key...), "Hash") {
			what = "unknown section"
		}
		if known := p.nearest(c, key); known != "" {
			what += "; did you mean " + known + "?"
		}
		unknown = append(unknown, d.errorf(key, "%s", what).Error())
	}
	if len(unknown) > 0 {
		return nil, errors.New(strings.Join(unknown, "; "))
	}
	return d, nil
}

// nearest is the known setting or section that an unknown one may be meant to be. It is empty when there is none.
func (p Program[C]) nearest(c C, key toml.Key) string {
	var known []string
	for _, s := range sections(reflect.ValueOf(c).Elem()) {
		if len(key) == 1 && s.name != "" {
			known = append(known, s.name)
		}
		if len(key) == 1 && s.name == "" || len(key) == 2 && s.name == key[0] {
			for _, one := range s.settings {
				known = append(known, one.key())
			}
		}
	}
	return nearest(key[len(key)-1], known)
}

// refuse is a value that nothing can be decoded into.
type refuse struct{}

func (*refuse) UnmarshalTOML(any) error { return errors.New("refused") }

// line is where the file has a key, or 0. The library keeps the lines to
// itself, but tells that of a key that cannot be decoded.
func (d *document) line(path []string) int {
	if d.lists[path[0]] {
		return d.lineInList(path)
	}
	t := reflect.TypeFor[refuse]()
	for i := len(path) - 1; i >= 0; i-- {
		t = reflect.StructOf([]reflect.StructField{
			{Name: "K", Type: t, Tag: reflect.StructTag("toml:" + strconv.Quote(path[i]))},
		})
	}
	_, err := toml.Decode(d.text, reflect.New(t).Interface())
	var at toml.ParseError
	if !errors.As(err, &at) {
		return 0
	}
	return at.Position.Line
}

// lineInList is where a section of a list has a key, or 0. A path without a number is of the first one that has it.
func (d *document) lineInList(path []string) int {
	of, numbered := number(path)
	header := regexp.MustCompile(`^\s*\[\[?\s*"?` + regexp.QuoteMeta(path[0]) + `"?\s*\]`)
	key := regexp.MustCompile(`^\s*"?` + regexp.QuoteMeta(path[len(path)-1]) + `"?\s*=`)
	at, inside := -1, false
	for i, line := range strings.Split(d.text, "\n") {
		if header.MatchString(line) {
			at, inside = at+1, true
			if len(path) == 1 {
				return i + 1
			}
		} else if strings.HasPrefix(strings.TrimSpace(line), "[") {
			inside = false
		}
		if inside && (!numbered || at == of) && key.MatchString(line) {
			return i + 1
		}
	}
	return 0
}
