package process

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// echo is a node that answers each line with the same line; its address is returned.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return ln.Addr().String()
}

// line is a connection on which tests send lines and wait for their echo.
type line struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) line {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return line{c, bufio.NewReader(c)}
}

func (c line) say(t *testing.T, text string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, text); err != nil {
		t.Fatal(err)
	}
}

// hear returns the next line within d, or the error.
func (c line) hear(d time.Duration) (string, error) {
	c.SetReadDeadline(time.Now().Add(d))
	s, err := c.r.ReadString('\n')
	return strings.TrimSpace(s), err
}

// gated puts a link in front of an echo.
func gated(t *testing.T) (l *Links, addr string) {
	t.Helper()
	return gateway(t, echo(t), bytesAlone)
}

// gateway puts a link in front of node "b"; this test's process is node "a".
func gateway(t *testing.T, bind string, speaks protocol) (l *Links, addr string) {
	t.Helper()
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("needs /proc/net/tcp")
	}
	l = newLinks(func() map[int]string { return map[int]string{os.Getpid(): "a"} })
	t.Cleanup(l.close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = free.Addr().String()
	free.Close()
	if err := l.listen("b", addr, bind, speaks); err != nil {
		t.Fatal(err)
	}
	return l, addr
}

func TestStalledLinkDeliversAfterHeal(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Stall, Deaf} {
		l, addr := gated(t)
		c := dial(t, addr)
		c.say(t, "before")
		if got, err := c.hear(10 * time.Second); got != "before" {
			t.Fatalf("%v: open link: %q, %v", mode, got, err)
		}
		l.Set("a", "b", Link{Mode: mode})
		c.say(t, "during")
		if got, err := c.hear(100 * time.Millisecond); err == nil {
			t.Fatalf("%v: %q came through a cut", mode, got)
		}
		l.Heal()
		if got, err := c.hear(10 * time.Second); got != "during" {
			t.Fatalf("%v: after the heal: %q, %v", mode, got, err)
		}
	}
}

func TestRefusingLinkResetsOldAndNewConnections(t *testing.T) {
	t.Parallel()
	l, addr := gated(t)
	c := dial(t, addr)
	c.say(t, "x")
	c.hear(10 * time.Second)
	l.Set("a", "b", Link{Mode: Refuse})
	if got, err := c.hear(10 * time.Second); err == nil || os.IsTimeout(err) {
		t.Errorf("old connection: %q, %v, want a reset", got, err)
	}
	if n, err := net.Dial("tcp", addr); err == nil {
		defer n.Close()
		if got, err := (line{n, bufio.NewReader(n)}).hear(10 * time.Second); err == nil || os.IsTimeout(err) {
			t.Errorf("new connection: %q, %v, want a reset", got, err)
		}
	}
	l.Heal()
	c = dial(t, addr)
	c.say(t, "y")
	if got, err := c.hear(10 * time.Second); got != "y" {
		t.Errorf("after the heal: %q, %v", got, err)
	}
}

// A cut is one node's alone: another process passes.
func TestCutIsOfOnePair(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash")
	}
	l, addr := gated(t)
	l.Set("a", "b", Link{Mode: Refuse})
	host, port, _ := net.SplitHostPort(addr)
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%s; echo hello >&3; head -n1 <&3", host, port)
	if out, err := exec.Command(bash, "-c", script).CombinedOutput(); string(out) != "hello\n" {
		t.Errorf("another process got %q, %v", out, err)
	}
}

func TestDownNodeRefusesConnections(t *testing.T) {
	t.Parallel()
	l, addr := gated(t)
	l.down("b")
	// A process that another test starts right now may hold the listener until it runs its program.
	for begun := time.Now(); ; {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
		if time.Since(begun) > 10*time.Second {
			t.Fatal("a node that is down takes connections")
		}
	}
	l.up("b")
	c := dial(t, addr)
	c.say(t, "up")
	if got, err := c.hear(10 * time.Second); got != "up" {
		t.Errorf("after its start: %q, %v", got, err)
	}
}
