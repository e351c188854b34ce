package page

import (
	"testing"
	"testing/fstest"
)

// A browser must load the page anew after an update, also from one build of a checkout to the next.
func TestETagIsThatOfTheFiles(t *testing.T) {
	t.Parallel()
	files := func(name, text string) fstest.MapFS {
		return fstest.MapFS{"index.html": {Data: []byte("<html>")}, name: {Data: []byte(text)}}
	}
	one := etagOf(files("app.js", "a"))
	if again := etagOf(files("app.js", "a")); again != one {
		t.Errorf("the same files have %s and %s", one, again)
	}
	for _, other := range []fstest.MapFS{files("app.js", "b"), files("other.js", "a"), {}} {
		if got := etagOf(other); got == one {
			t.Errorf("%v has the same ETag", other)
		}
	}
}
