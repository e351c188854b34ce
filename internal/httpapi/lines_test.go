package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// tagged is a point with n tags, the last first.
func tagged(before string, n int) string {
	b := []byte(before + "m")
	for i := range n {
		b = fmt.Appendf(b, ",t%06d=v", n-i)
	}
	return string(b) + " v=1\n"
}

func TestPointsWithTooManyTagsAreRefusedBeforeTheyAreSorted(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		strings.Repeat(tagged("", maxTags), 3):                         true,
		tagged("", maxTags+1):                                          false,
		tagged("m v=1\n", maxTags+1):                                   false,
		tagged("\t\x00 ", maxTags+1):                                   false,
		tagged(`a\ b`, maxTags+1):                                      false,
		tagged("a\\\n", maxTags+1):                                     false,
		tagged("m s=\"\n", maxTags+1):                                  false,
		"m " + strings.Repeat("f=1,", 2*maxTags) + "last=1":            true,
		"m s=\"" + strings.Repeat("a=b,", 2*maxTags) + "\"":            true,
		"m v=1 1\n" + strings.Repeat("\n", 10) + tagged("", maxTags/2): true,
	} {
		for _, r := range []io.Reader{strings.NewReader(body), iotest.OneByteReader(strings.NewReader(body))} {
			got, err := io.ReadAll(&tagLimit{r: r})
			if (err == nil) != want || want && string(got) != body {
				t.Errorf("%.40q: %v, %d bytes of %d", body, err, len(got), len(body))
			}
		}
	}
	const head = 64 << 10 // bytes: more than the first maxTags tags
	most := strings.NewReader(tagged("", 20*maxTags))
	size := most.Len()
	if _, err := io.ReadAll(&tagLimit{r: most}); err == nil || size-most.Len() > head {
		t.Errorf("a point with many tags: %v after %d bytes of %d", err, size-most.Len(), size)
	}
	zipped := zip([]byte(tagged("", 2*maxTags)))
	for path, body := range map[string][]byte{"/write": []byte(tagged("", 2*maxTags)), "/api/v2/write": zipped} {
		r := post(path, body)
		if bytes.Equal(body, zipped) {
			r.Header.Set("Content-Encoding", "gzip")
		}
		b := &bounds{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err == nil || r.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: the engine gets %q, %v", path, r.Header.Get("Content-Encoding"), err)
			}
		})}
		b.ServeHTTP(nil, r)
	}
}

func BenchmarkTagLimit(b *testing.B) {
	body := bytes.Repeat([]byte("cpu,host=server-1,region=eu-west usage_idle=92.5,usage_user=3.25,usage_system=1.5 "+
		"1700000000000000000\n"), 10_000)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if !new(tagLimit).check(body) {
			b.Fatal("refused")
		}
	}
}
