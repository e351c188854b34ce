package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
)

// node notes what Run does with it.
type node struct{ reloaded []string }

func (n *node) Reload(c string) error {
	if c == "bad" {
		return errors.New("bad")
	}
	n.reloaded = append(n.reloaded, c)
	return nil
}

func (n *node) Close() error { return errors.New("closed") }

// Signals reach the whole process: this test must not run beside others that send some.
func TestRunReloadsAndStopsOnSignals(t *testing.T) {
	said := make(chan string, 10)
	log := zaptest.NewLogger(t, zaptest.WrapOptions(zap.Hooks(func(e zapcore.Entry) error {
		said <- e.Message
		return nil
	})))
	opened, ended := make(chan struct{}), make(chan error, 1)
	n := &node{}
	configs := []string{"bad", "good"}
	load := func() (string, error) {
		c := configs[0]
		configs = configs[1:]
		return c, nil
	}
	go func() {
		ended <- Run(t.Context(), log, load, func(context.Context) (*node, error) {
			close(opened)
			return n, nil
		})
	}()
	<-opened
	for _, want := range []string{"Not reloaded: ", "Reloaded"} {
		syscall.Kill(os.Getpid(), syscall.SIGHUP)
		if got := <-said; !strings.HasPrefix(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	if err := <-ended; err == nil || err.Error() != "closed" {
		t.Errorf("got %v, want the error of Close", err)
	}
	if len(n.reloaded) != 1 || n.reloaded[0] != "good" {
		t.Errorf("reloaded %q, want the good configuration once", n.reloaded)
	}
}

// systemd hears that a node is ready only when it is open, and that it stops. The variable is of the whole process:
// this test must not run beside others that open nodes.
func TestRunTellsSystemd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	heard.SetReadDeadline(time.Now().Add(time.Minute))
	t.Setenv("NOTIFY_SOCKET", socket)
	next := func() string {
		b := make([]byte, 100)
		n, err := heard.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		load := func() (string, error) { return "", nil }
		ended <- Run(ctx, zap.NewNop(), load, func(context.Context) (*node, error) {
			tell(zap.NewNop(), "STATUS=opening")
			return &node{}, nil
		})
	}()
	for _, want := range []string{"STATUS=opening", "READY=1"} {
		if got := next(); got != want {
			t.Errorf("systemd heard %q, want %q", got, want)
		}
	}
	stop()
	if got := next(); got != "STOPPING=1" {
		t.Errorf("systemd heard %q at the end", got)
	}
	<-ended
}

func TestRunStopsWhileANodeOpens(t *testing.T) {
	said := make(chan string, 10)
	log := zaptest.NewLogger(t, zaptest.WrapOptions(zap.Hooks(func(e zapcore.Entry) error {
		said <- e.Message
		return nil
	})))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	opening, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		load := func() (string, error) { return "", nil }
		ended <- Run(ctx, log, load, func(context.Context) (*node, error) {
			close(opening)
			<-release
			return &node{}, nil
		})
	}()
	<-opening
	stop()
	if got := <-said; got != "Stopping" {
		t.Errorf("logged %q", got)
	}
	close(release)
	if err := <-ended; err == nil || err.Error() != "closed" {
		t.Errorf("got %v, want the error of Close: what was opened is closed", err)
	}
}

func TestRunReturnsWhyANodeDidNotOpen(t *testing.T) {
	want := errors.New("the port is taken")
	load := func() (string, error) { return "", nil }
	open := func(context.Context) (*node, error) { return nil, want }
	if err := Run(t.Context(), zap.NewNop(), load, open); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestCloseGivesUpAfterTheLimit(t *testing.T) {
	release := make(chan struct{})
	var stacks strings.Builder
	err := closeWithin(time.Nanosecond, &stacks, func() error { <-release; return nil })
	close(release)
	if err == nil || !strings.Contains(err.Error(), "not stopped within 1ns") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(stacks.String(), "daemon.closeWithin") {
		t.Errorf("it does not say where its goroutines are: %q", &stacks)
	}
}
