package httpapi

import (
	"bytes"
	"fmt"
	"io"
)

// maxTags is how many tags a point may have. The engine sorts those that are not in order by insertion: a few hundred
// thousand take it minutes, before it finds that the series key is too long.
const maxTags = 1000

// tagLimit hands on line protocol, and ends with an error at a point that has too many tags.
//
// It takes every newline for the end of a point, also in a string. What follows it in a string would have to look like
// a thousand tags to be refused.
type tagLimit struct {
	r io.Reader

	rest    bool // of the line: the tags are over
	begun   bool // the key
	escaped bool // by the byte before
	tags    int
}

func (t *tagLimit) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if !t.check(p[:n]) {
		return 0, fmt.Errorf("unable to parse the points: one has more than %d tags", maxTags)
	}
	return n, err
}

func (t *tagLimit) check(b []byte) bool {
	for len(b) > 0 {
		if t.rest {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return true
			}
			b = b[i+1:]
			t.rest, t.begun, t.tags = false, false, 0
			continue
		}
		// Most lines are too short for so many tags. One that an escape continues may not be.
		if i := bytes.IndexByte(b, '\n'); i > 0 && i < 3*maxTags && b[i-1] != '\\' && !t.begun {
			b = b[i+1:]
			continue
		}
		n := len(b)
		for i, c := range b {
			switch {
			case t.escaped:
				t.escaped = false
			case c == '\\':
				t.begun, t.escaped = true, true
			case c == '=':
				if t.tags++; t.tags > maxTags {
					return false
				}
			case c == '\n':
				t.begun, t.tags = false, 0
			case c == ' ' && t.begun:
				t.rest = true
			case c != ' ' && c != '\t' && c != 0:
				t.begun = true
			}
			if t.rest {
				n = i + 1
				break
			}
		}
		b = b[n:]
	}
	return true
}
