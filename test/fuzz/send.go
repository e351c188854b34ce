package fuzz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// stallFor is how long a client that stalls keeps its connection.
const stallFor = 2 * time.Second

// send sends a request and reads all of the answer. The status is 0 when the client itself broke the connection.
func send(ctx context.Context, client *http.Client, addr string, r request) (status int, err error) {
	if r.broken != sound {
		return 0, sendBroken(ctx, addr, r)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+addr+r.path, bytes.NewReader(r.body))
	if err != nil {
		return 0, nil // no client can send it
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return 0, err
		case len(r.body) > 1<<16: // a server that refuses a body may close before it has read it all
			return 0, nil
		case strings.Contains(err.Error(), "malformed MIME header"): // the engine repeats what it cannot parse in a header
			return 0, nil
		}
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, fmt.Errorf("%s, and then: %w", resp.Status, err)
	}
	return resp.StatusCode, nil
}

// sendBroken speaks HTTP by hand, wrongly. An answer is not expected, only that the node goes on.
func sendBroken(ctx context.Context, addr string, r request) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	length := len(r.body)
	if r.broken == badLength {
		length = length*2 + 1000
	}
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: node\r\n", r.method, r.path)
	for k, v := range r.header {
		fmt.Fprintf(&head, "%s: %s\r\n", k, v)
	}
	switch r.broken {
	case badChunks:
		head.WriteString("Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n")
	case largeHeader:
		fmt.Fprintf(&head, "X: %s\r\nContent-Length: %d\r\n\r\n", strings.Repeat("x", 1<<20+5000), length)
	default:
		fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n", length)
	}
	body := r.body
	if r.broken == stall || r.broken == cut {
		body = body[:len(body)/2]
	}
	io.WriteString(conn, head.String())
	conn.Write(body)
	switch r.broken {
	case stall:
		select {
		case <-time.After(stallFor):
		case <-ctx.Done():
		}
	case unread, cut:
	default:
		conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}
