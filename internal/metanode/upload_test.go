package metanode

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
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
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s", tt.bytes, bytes.Repeat([]byte("x"), tt.bytes), tt.end)
		conn.(*net.TCPConn).CloseWrite()
		got := <-ended
		conn.Close()
		if (got.err == nil) != tt.whole || got.bytes != tt.bytes && tt.whole {
			t.Errorf("%d bytes, then %q: %d bytes, %v", tt.bytes, tt.end, got.bytes, got.err)
		}
	}
}
