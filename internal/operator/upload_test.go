package operator

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A client that dies in the middle of a file must not leave a short one that counts as whole.
func TestUploadThatIsCutIsNotWhole(t *testing.T) {
	t.Parallel()
	type outcome struct {
		bytes int
		err   error
	}
	ended := make(chan outcome, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var got outcome
		got.err = eachChunk(r.Body, func(b []byte) bool { got.bytes += len(b); return true })
		ended <- got
	}))
	defer srv.Close()
	for _, tt := range []struct {
		bytes int
		end   string
		whole bool
	}{
		{1000, "0\r\n\r\n", true},
		{chunkBytes, "0\r\n\r\n", true},
		{1000, "", false},
		{chunkBytes, "", false},
		{chunkBytes + 1, "", false},
	} {
		conn, err := net.DialTimeout("tcp", srv.Listener.Addr().String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s", tt.bytes,
			bytes.Repeat([]byte("x"), tt.bytes), tt.end)
		conn.(*net.TCPConn).CloseWrite()
		got := <-ended
		conn.Close()
		if (got.err == nil) != tt.whole || got.bytes != tt.bytes && tt.whole {
			t.Errorf("%d bytes, then %q: %d bytes, %v", tt.bytes, tt.end, got.bytes, got.err)
		}
	}
}

// endless is a body without an end; n is how much of it was read.
type endless struct{ n int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'A'
	}
	e.n += int64(len(b))
	return len(b), nil
}

// What begins a restore is bounded, and there is one at a time.
func TestRestoreBeginsWithABoundedBody(t *testing.T) {
	t.Parallel()
	b := &restores{}
	begin := func(body io.Reader) string {
		w := httptest.NewRecorder()
		b.serveBegin(w, httptest.NewRequest("POST", "/restore/begin", body))
		return fmt.Sprint(w.Code, w.Body)
	}
	var body endless
	large := `400 {"error":"restore: the metadata of the backup is larger than 16777216 bytes"}`
	if got := begin(io.MultiReader(strings.NewReader(`{"meta":"`), &body)); !strings.Contains(got, large) {
		t.Error(got)
	}
	if body.n > 2*maxTarget {
		t.Errorf("%d bytes were read", body.n)
	}
	slow, writer := io.Pipe()
	first := make(chan string)
	go func() { first <- begin(slow) }()
	fmt.Fprint(writer, `{"db`) // it is being read
	if got := begin(strings.NewReader(`{}`)); !strings.Contains(got,
		`400 {"error":"another restore is just beginning`) {
		t.Error(got)
	}
	writer.CloseWithError(io.ErrUnexpectedEOF)
	if got := <-first; !strings.Contains(got, `400 {"error":"restore: unexpected EOF"}`) {
		t.Error(got)
	}
	if got := begin(strings.NewReader(`{}`)); !strings.Contains(got, `this is not valid metadata`) {
		t.Error(got)
	}
}

// The body of a restored shard is a tar: it is never read as a form, which would be kept whole.
func TestRestoredShardIsNoForm(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		var body endless
		r := httptest.NewRequest("POST", "/restore/shard?shard=none", &body)
		r.Header.Set("Content-Type", kind)
		if _, err := (&backups{nodes: &dataNodes{}}).restoreShard(r); err == nil ||
			err.Error() != `shard: must be a number, and not "none"` {
			t.Error(err)
		}
		if body.n > 0 {
			t.Errorf("%s: %d bytes were read", kind, body.n)
		}
	}
}
