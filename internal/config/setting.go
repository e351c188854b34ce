package config

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// setting is one field of a configuration.
type setting struct {
	path  []string // section, if any, its number in a list of sections, and key
	value reflect.Value
	of    reflect.Type // the struct that has it
	doc   string
	show  string // what the sample shows when the setting has no value
}

// section is a table of a configuration, the first one without a name.
type section struct {
	name     string
	list     bool // it is one of a list of tables
	doc      string
	settings []setting
}

func (s setting) key() string { return s.path[len(s.path)-1] }

// name is "[section] key", or the key alone at the top.
func (s setting) name() string { return name(s.path) }

func name(path []string) string {
	path = unnumbered(path)
	if len(path) == 1 {
		return path[0]
	}
	return "[" + strings.Join(path[:len(path)-1], ".") + "] " + path[len(path)-1]
}

// unnumbered is a path without the number of a section in its list.
func unnumbered(path []string) []string {
	if _, ok := number(path); ok {
		return []string{path[0], path[2]}
	}
	return path
}

// number is which one of a list of sections a path is in.
func number(path []string) (n int, ok bool) {
	if len(path) != 3 {
		return 0, false
	}
	n, err := strconv.Atoi(path[1])
	return n, err == nil
}

// defaults are the values of the settings of the struct v by name. Those of a list are those of its first section.
func defaults(v reflect.Value) map[string]reflect.Value {
	out := make(map[string]reflect.Value)
	for _, s := range slices.Backward(settings(v)) {
		out[s.name()] = s.value
	}
	return out
}

// variable is the environment variable of the setting.
func (s setting) variable() string {
	return "INFLUXDB_" + strings.ToUpper(strings.ReplaceAll(strings.Join(s.path, "_"), "-", "_"))
}

// secret tells whether the value must never be printed.
func (s setting) secret() bool {
	k := s.key()
	return strings.HasSuffix(k, "secret") || strings.HasSuffix(k, "password")
}

// sections lists the settings of the struct v, those at the top first.
func sections(v reflect.Value) []section {
	out := []section{{}}
	for _, f := range fields(v) {
		switch {
		case table(f.value.Type()):
			out = append(out, section{name: f.key(), doc: f.doc, settings: below(f.value, f.key())})
		case list(f.value.Type()):
			for i := range f.value.Len() {
				s := section{name: f.key(), list: true, settings: below(f.value.Index(i), f.key(), strconv.Itoa(i))}
				if i == 0 {
					s.doc = f.doc
				}
				out = append(out, s)
			}
		default:
			f.path = []string{f.key()}
			out[0].settings = append(out[0].settings, f)
		}
	}
	return out
}

// below lists the settings of a section, which is at a path.
func below(v reflect.Value, path ...string) []setting {
	out := fields(v)
	for i := range out {
		out[i].path = slices.Concat(path, out[i].path)
	}
	return out
}

// settings lists all settings of the struct v.
func settings(v reflect.Value) []setting {
	var out []setting
	for _, s := range sections(v) {
		out = append(out, s.settings...)
	}
	return out
}

// fields lists the tagged fields of a struct, with those of embedded structs
// where they stand.
func fields(v reflect.Value) []setting {
	var out []setting
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if f.Anonymous && key == "" {
			out = append(out, fields(v.Field(i))...)
			continue
		}
		if key == "" || key == "-" {
			continue
		}
		s := setting{path: []string{key}, value: v.Field(i), of: t, doc: f.Tag.Get("doc"), show: f.Tag.Get("show")}
		out = append(out, s)
	}
	return out
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// list tells whether a field of type t is a list of sections.
func list(t reflect.Type) bool { return t.Kind() == reflect.Slice && table(t.Elem()) }

// table tells whether a field of type t is a section.
func table(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textUnmarshaler)
}
