package ctl

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// drawn is a canvas that hands over what is drawn.
type drawn chan []styled

func (d drawn) draw(lines []styled) error { d <- lines; return nil }

func TestAScreenIsCutToTheTerminal(t *testing.T) {
	t.Parallel()
	var lines []styled
	for i := range 20 {
		lines = append(lines, styled{warn, fmt.Sprintf("%d %s", i, strings.Repeat("ä", i*10))})
	}
	for _, size := range [][2]int{{80, 24}, {40, 10}, {10, 3}, {1, 1}, {0, 0}} {
		var out strings.Builder
		s := &screen{w: &out, size: func() (int, int) { return size[0], size[1] }}
		if err := s.draw(lines); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), home) || !strings.HasSuffix(out.String(), restBelow) {
			t.Errorf("%v: what was there before is not drawn over: %q", size, out.String())
		}
		got := strings.Split(regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`).ReplaceAllString(out.String(), ""), "\r\n")
		if size[1] > 0 && len(got) > size[1] || size[1] == 0 && len(got) != len(lines) {
			t.Errorf("%v: %d lines", size, len(got))
		}
		for _, l := range got {
			if size[0] > 0 && utf8.RuneCountInString(l) > size[0] || strings.Contains(l, "\n") {
				t.Errorf("%v: the line %q is too long", size, l)
			}
		}
		if cutOff := size[1] > 0 && size[1] < len(lines) && size[0] > 10; cutOff != strings.Contains(got[len(got)-1], "more") {
			t.Errorf("%v: the last line is %q", size, got[len(got)-1])
		}
	}
}

// server answers with a sentence, or with an error while it has none.
type server struct {
	mu       sync.Mutex
	sentence string
}

func (s *server) say(sentence string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sentence = sentence
}

func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sentence == "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"error":"not now"}`)
		return
	}
	fmt.Fprintf(w, `{"summary":{"sentence":%q}}`, s.sentence)
}

func TestTopIsDrawnAgainUntilAKeyEndsIt(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]byte{"q": 'q', "Q": 'Q', "Ctrl-C": ctrlC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := &server{sentence: "one"}
			srv := httptest.NewServer(handler)
			t.Cleanup(srv.Close)
			c := &client{overTLS: &tlsTransport{}}
			c.flags(&cobra.Command{})
			c.bind = srv.Listener.Addr().String()
			screens, keys, ended := make(drawn), make(chan byte), make(chan error, 1)
			go func() { ended <- c.watchState(t.Context(), screens, keys, time.Hour) }()
			want := func(texts ...string) {
				t.Helper()
				select {
				case lines := <-screens:
					for i, text := range texts {
						if i >= len(lines) || lines[i].text != text {
							t.Fatalf("the screen is %v, want %q", lines, texts)
						}
					}
				case err := <-ended:
					t.Fatalf("it ended: %v", err)
				}
			}
			want("one")
			handler.say("two")
			keys <- ' ' // looks at once
			want("two")
			handler.say("")
			keys <- ' '
			want("not now", "", "two") // what was known last stays
			handler.say("three")
			keys <- ' '
			want("three")
			keys <- end
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTopLooksAgainByItself(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(&server{sentence: "one"})
	t.Cleanup(srv.Close)
	c := &client{overTLS: &tlsTransport{}}
	c.flags(&cobra.Command{})
	c.bind = srv.Listener.Addr().String()
	screens, keys, ended := make(drawn), make(chan byte), make(chan error, 1)
	close(keys) // no keyboard
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- c.watchState(ctx, screens, keys, time.Millisecond) }()
	for n := 0; ; n++ {
		if n == 3 {
			cancel()
		}
		select {
		case <-screens:
		case err := <-ended:
			if err != nil || n < 3 {
				t.Errorf("it ended after %d screens: %v", n, err)
			}
			return
		}
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for want, d := range map[string]time.Duration{
		"0s": -time.Second, "59s": 59 * time.Second, "1m0s": time.Minute, "59m59s": time.Hour - time.Second,
		"1h0m": time.Hour, "23h59m": 24*time.Hour - time.Second, "1d0h": 24 * time.Hour, "400d1h": 400*24*time.Hour + time.Hour,
	} {
		if got := ago(now.Add(-d), now); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
}
