package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	itoml "github.com/influxdata/influxdb/toml"
)

// Texts are about settings whose fields have no tags, by struct and key.
type Texts map[reflect.Type]map[string]string

func (p Program[C]) printSample(w io.Writer, v, d reflect.Value) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n#\n", p.Title)
	b.WriteString("# Each setting has an environment variable INFLUXDB_<SECTION>_<SETTING>, with - as _, which wins\n")
	b.WriteString("# over this file; for those before the first section it is INFLUXDB_<SETTING>.\n")
	before := defaults(d)
	for _, sec := range sections(v) {
		if sec.name != "" {
			b.WriteString("\n")
			if sec.doc != "" {
				printComment(&b, sec.doc)
			}
			header := "[%s]\n"
			if sec.list {
				header = "[[%s]]\n"
			}
			fmt.Fprintf(&b, header, sec.name)
		}
		for _, s := range sec.settings {
			if s.doc == "" {
				s.doc, s.show = p.Docs[s.of][s.key()], p.Show[s.of][s.key()]
			}
			if err := printSetting(&b, s, before[s.name()]); err != nil {
				return fmt.Errorf("print %s: %w", s.name(), err)
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// printSetting writes a setting with its comment. One without a value, or whose value is
// a secret, is commented out.
func printSetting(b *bytes.Buffer, s setting, def reflect.Value) error {
	value, err := format(s.value)
	if err != nil {
		return err
	}
	d, err := format(def)
	if err != nil {
		return err
	}
	if d == "" {
		d = "not set"
	}
	b.WriteByte('\n')
	printComment(b, fmt.Sprintf("%s Default: %s.", s.doc, d))
	switch {
	case s.secret() && !s.value.IsZero():
		fmt.Fprintf(b, "# %s is set, and never printed\n", s.key())
	case value == "":
		fmt.Fprintf(b, "# %s = %s\n", s.key(), s.show)
	default:
		fmt.Fprintf(b, "%s = %s\n", s.key(), value)
	}
	return nil
}

// commentWidth is the length of the longest line of a comment.
const commentWidth = 100

// printComment writes text as lines of a comment.
func printComment(b *bytes.Buffer, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > commentWidth {
			fmt.Fprintln(b, line)
			line = "#"
		}
		line += " " + word
	}
	fmt.Fprintln(b, line)
}

// format writes a value as TOML in one line; it is empty for what is not set.
func format(v reflect.Value) (string, error) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return "", nil
		}
		return format(v.Elem())
	case reflect.Map:
		return formatMap(v)
	}
	if table(v.Type()) {
		return formatTable(v)
	}
	switch x := v.Interface().(type) {
	case itoml.Size, itoml.SSize:
		text := fmt.Sprint(x)
		if strings.Trim(text, "0123456789") == "" {
			return text, nil
		}
		return encode(text)
	case itoml.Duration:
		return encode(short(time.Duration(x)))
	case time.Duration:
		return encode(short(x))
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return "", err
		}
		return encode(string(text))
	}
	return encode(v.Interface())
}

func formatMap(v reflect.Value) (string, error) {
	if v.Len() == 0 {
		return "", nil
	}
	var parts []string
	for it := v.MapRange(); it.Next(); {
		key, err := encode(it.Key().String())
		if err != nil {
			return "", err
		}
		value, err := format(it.Value())
		if err != nil {
			return "", err
		}
		parts = append(parts, key+" = "+value)
	}
	slices.Sort(parts)
	return "{ " + strings.Join(parts, ", ") + " }", nil
}

func formatTable(v reflect.Value) (string, error) {
	var parts []string
	for _, f := range fields(v) {
		value, err := format(f.value)
		if err != nil {
			return "", err
		}
		if value != "" {
			parts = append(parts, f.key()+" = "+value)
		}
	}
	return "{ " + strings.Join(parts, ", ") + " }", nil
}

func encode(v any) (string, error) {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(map[string]any{"v": v}); err != nil {
		return "", err
	}
	line := strings.TrimSpace(strings.TrimPrefix(b.String(), "v = "))
	if line == "" {
		return "[]", nil // a slice that is nil
	}
	return line, nil
}

// short writes 4h for Go's 4h0m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
