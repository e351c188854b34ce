package config

import (
	"encoding"
	"reflect"
	"strings"
)

// setting is one field of a configuration.
type setting struct {
	path  []string // section, if any, and key
	value reflect.Value
	of    reflect.Type // the struct that has it
	doc   string
	show  string // what the sample shows when the setting has no value
}

// section is a table of a configuration, the first one without a name.
type section struct {
	name     string
	doc      string
	settings []setting
}

func (s setting) key() string { return s.path[len(s.path)-1] }

// name is "[section] key", or the key alone at the top.
func (s setting) name() string { return name(s.path) }

func name(path []string) string {
	if len(path) == 1 {
		return path[0]
	}
	return "[" + strings.Join(path[:len(path)-1], ".") + "] " + path[len(path)-1]
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
		if !table(f.value.Type()) {
			f.path = []string{f.key()}
			out[0].settings = append(out[0].settings, f)
			continue
		}
		s := section{name: f.key(), doc: f.doc}
		for _, g := range fields(f.value) {
			g.path = []string{f.key(), g.key()}
			s.settings = append(s.settings, g)
		}
		out = append(out, s)
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

// table tells whether a field of type t is a section.
func table(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textUnmarshaler)
}
