package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// statePath is the route with all that the page of the cluster shows.
const statePath = "/cluster/state"

func (c *client) top() *cobra.Command {
	var interval time.Duration
	var once, asJSON bool
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the cluster: whether the replicas agree, its nodes, and its repairs", Args: args(),
		Long: "Watch the cluster: whether the replicas agree, its nodes, what waits for which node, and the repairs " +
			"that run.\n\n" +
			"On a terminal the screen is drawn anew every -interval, until q or Ctrl-C. Elsewhere each screen is printed below\n" +
			"the last one. The page /cluster of each node shows the same in a browser. Users who are not administrators see\n" +
			"neither repairs nor disks.",
		Example: "  influxd-ctl top\n  influxd-ctl top -once | head -1        # one sentence\n" +
			"  influxd-ctl top -json | jq .summary    # for scripts",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval <= 0 {
				return errors.New("-interval: must be above 0")
			}
			w := cmd.OutOrStdout()
			if asJSON {
				var state json.RawMessage
				if err := c.call(cmd.Context(), http.MethodGet, statePath, nil, &state); err != nil {
					return err
				}
				return printJSON(w, state)
			}
			if once {
				s, err := c.fetchState(cmd.Context())
				if err != nil {
					return err
				}
				return (&paper{w: w}).draw(s.lines(time.Now()))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			f, ok := w.(*os.File)
			if !ok || !term.IsTerminal(int(f.Fd())) {
				return c.watchState(ctx, &paper{w: w}, nil, interval)
			}
			s := &screen{w: f, size: func() (int, int) { return sizeOf(f) }}
			keys, restore := keysOf(os.Stdin)
			defer restore()
			s.begin()
			defer s.end()
			return c.watchState(ctx, s, keys, interval)
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "time between two looks")
	cmd.Flags().BoolVar(&once, "once", false, "print one screen and end")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all state once as JSON")
	return cmd
}

func (c *client) fetchState(ctx context.Context) (s clusterState, err error) {
	err = c.call(ctx, http.MethodGet, statePath, nil, &s)
	return s, err
}

// canvas is where screens are drawn.
type canvas interface{ draw(lines []styled) error }

// watchState draws the state of the cluster until ctx ends or a key says so. A meta node that does not answer for a
// while is shown as that, below what it said last.
func (c *client) watchState(ctx context.Context, to canvas, keys <-chan byte, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last clusterState
	for known := false; ; {
		s, err := c.fetchState(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !known:
			return err
		case err == nil:
			last, known = s, true
		}
		lines := last.lines(time.Now())
		if err != nil {
			lines = append([]styled{{bad, err.Error()}, {}}, lines...)
		}
		if err := to.draw(lines); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				waiting = false
			case k, ok := <-keys:
				switch {
				case !ok:
					keys = nil // its end is not that of the terminal
				case k == 'q' || k == 'Q' || k == ctrlC:
					return nil
				default:
					waiting = false // any other key looks at once
				}
			}
		}
	}
}

// ctrlC is what Ctrl-C is on a terminal that hands over each key.
const ctrlC = 3

// keysOf hands over the keys that are pressed, if there is a keyboard. restore makes the terminal as it was. The
// goroutine that reads ends with the process: a read from a terminal cannot be ended.
func keysOf(f *os.File) (keys <-chan byte, restore func()) {
	fd := int(f.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, func() {}
	}
	out := make(chan byte)
	go func() {
		defer close(out)
		var b [1]byte
		for {
			if n, err := f.Read(b[:]); err != nil || n == 0 {
				return
			}
			out <- b[0]
		}
	}()
	return out, func() { _ = term.Restore(fd, before) }
}

// sizeOf is the size of a terminal in characters, 0 for not known.
func sizeOf(f *os.File) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

// paper is an output that is not a terminal: one screen is below the other, whole and without colours.
type paper struct {
	w     io.Writer
	begun bool
}

func (p *paper) draw(lines []styled) error {
	if p.begun {
		if _, err := fmt.Fprintln(p.w); err != nil {
			return err
		}
	}
	p.begun = true
	for _, l := range lines {
		if _, err := fmt.Fprintln(p.w, l.text); err != nil {
			return err
		}
	}
	return nil
}

// screen is a terminal. Lines are cut where it ends, and so is the list of them.
type screen struct {
	w    io.Writer
	size func() (width, height int)
}

// What terminals understand. The other screen leaves what the user had before as it was.
const (
	otherScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // without cursor, and without lines that go on below
	firstScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	restOfLine  = "\x1b[K"
	restBelow   = "\x1b[J"
)

var colours = map[style]string{bold: "\x1b[1m", bad: "\x1b[1;31m", warn: "\x1b[33m", good: "\x1b[1;32m", dim: "\x1b[2m"}

func (s *screen) begin() { fmt.Fprint(s.w, otherScreen) }
func (s *screen) end()   { fmt.Fprint(s.w, firstScreen) }

func (s *screen) draw(lines []styled) error {
	width, height := s.size()
	if height > 0 && len(lines) > height {
		lines = append(lines[:max(height-1, 0):max(height-1, 0)],
			styled{dim, "… and more: influxd-ctl top -once prints all"})
	}
	var out strings.Builder
	out.WriteString(home)
	for i, l := range lines {
		if i > 0 {
			out.WriteString("\r\n")
		}
		text := l.text
		if width > 0 {
			text = cut(text, width)
		}
		if c := colours[l.style]; c != "" && text != "" {
			text = c + text + "\x1b[0m"
		}
		out.WriteString(text + restOfLine)
	}
	out.WriteString(restBelow)
	_, err := io.WriteString(s.w, out.String())
	return err
}

// cut cuts a line off at a width, and shows that there was more.
func cut(text string, width int) string {
	r := []rune(text)
	if len(r) <= width {
		return text
	}
	return string(r[:width-1]) + "…"
}
