//go:build browser

package browser

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var shots = flag.String("shots", "", "folder for pictures of the views; none when empty")

// patience is how long the page may take for one step.
const patience = 60 * time.Second

// browserPath finds Chromium.
func browserPath() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// tab is a page in a browser of its own. When the test ends, the console must be free of errors.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	console []string // errors
	network bool     // failed requests are part of the test
}

// open opens a page in a new browser.
func open(t *testing.T, url string, width, height int64) *tab {
	t.Helper()
	path := browserPath()
	if path == "" {
		t.Skip("there is no Chromium: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(patience), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("lang", "en-GB"), chromedp.Env("TZ=Europe/Berlin", "LANGUAGE=en_GB"))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(alloc)
	tb := &tab{t: t, ctx: ctx}
	// The first call starts the browser, which ends with its context.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	var listening sync.WaitGroup
	messages := chromedp.Console(ctx)
	listening.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			tb.hear(m)
		}
	})
	t.Cleanup(func() {
		cancel()
		stop()
		listening.Wait()
		for _, line := range tb.console {
			t.Errorf("the console says: %s", line)
		}
	})
	tb.do(chromedp.EmulateViewport(width, height), chromedp.Navigate(url))
	return tb
}

// hear notes errors of the console.
func (tb *tab) hear(m chromedp.ConsoleMessage) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if m.Source == "network" && tb.network {
		return
	}
	switch m.Type {
	case chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException:
		tb.console = append(tb.console, fmt.Sprintf("%s (%s:%d)", m, m.URL, m.Line))
	}
}

// expectFailures lets requests fail from now on.
func (tb *tab) expectFailures() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.network = true
}

func (tb *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		tb.fail(err.Error())
	}
}

// fail ends the test with what the page says.
func (tb *tab) fail(what string) {
	tb.t.Helper()
	tb.shot("failed")
	tb.t.Fatalf("%s; the page says: %.800s", what, tb.body())
}

// body is the text of the page.
func (tb *tab) body() string {
	ctx, cancel := context.WithTimeout(tb.ctx, 2*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		return err.Error()
	}
	return text
}

// eval evaluates JavaScript, and waits for what it promises.
func eval[T any](tb *tab, expression string) T {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		tb.fail(fmt.Sprintf("%.200s: %v", expression, err))
	}
	return v
}

// wait waits until an expression of JavaScript is true. One that fails is not.
func (tb *tab) wait(what, expression string) {
	tb.t.Helper()
	tick, late := time.NewTicker(50*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !eval[bool](tb, "(() => { try { return !!("+expression+") } catch { return false } })()") {
		select {
		case <-tick.C:
		case <-late:
			tb.fail(what + " does not come")
		}
	}
}

// waitText waits until an element has a text.
func (tb *tab) waitText(selector, text string) {
	tb.t.Helper()
	tb.wait(fmt.Sprintf("%s with %q", selector, text),
		fmt.Sprintf("document.querySelector(%q).innerText.includes(%q)", selector, text))
}

func (tb *tab) click(selector string) {
	tb.t.Helper()
	tb.do(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
}

// set gives a field a value.
func (tb *tab) set(selector, value string) {
	tb.t.Helper()
	tb.do(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.SetValue(chromedp.CSS(selector), value))
}

// view opens a view by its address.
func (tb *tab) view(hash string) {
	tb.t.Helper()
	name, _, _ := strings.Cut(hash, "/")
	eval[string](tb, "location.hash = '#/"+hash+"'")
	tb.wait("the view "+hash, fmt.Sprintf("document.querySelector('main').dataset.view === %q", name))
}

// dark chooses the colours that the system asks for.
func (tb *tab) dark(dark bool) {
	tb.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	tb.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
}

// shot keeps a picture of the whole page.
func (tb *tab) shot(name string) {
	if *shots == "" {
		return
	}
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		tb.t.Logf("no picture %s: %v", name, err)
		return
	}
	if err := os.MkdirAll(*shots, 0o755); err != nil {
		tb.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

// axeVersion is that of axe-core, which audits the accessibility of a page.
const axeVersion = "4.14.1"

// axe is the script of axe-core, which npm fetches once.
var axe = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "concord-test")
	kept := filepath.Join(dir, "axe-"+axeVersion+".min.js")
	if b, err := os.ReadFile(kept); err == nil {
		return string(b), nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "axe-core@"+axeVersion)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm pack axe-core: %w: %.300s", err, out)
	}
	archive := filepath.Join(dir, "axe-core-"+axeVersion+".tgz")
	defer os.Remove(archive)
	script, err := fileOf(archive, "package/axe.min.js")
	if err != nil {
		return "", err
	}
	return string(script), os.WriteFile(kept, script, 0o644)
})

// fileOf reads a file out of a compressed archive.
func fileOf(archive, name string) ([]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has no %s", archive, name)
		} else if err != nil {
			return nil, err
		}
		if h.Name == name {
			return io.ReadAll(r)
		}
	}
}

// audit finds what keeps people out who see, hear or move otherwise.
func (tb *tab) audit(name string) {
	tb.t.Helper()
	script, err := axe()
	if err != nil {
		tb.t.Logf("no audit of %s: %v", name, err)
		return
	}
	eval[bool](tb, script+"; true")
	found := eval[string](tb, `axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))`)
	var violations []struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string
			FailureSummary string
		}
	}
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		tb.t.Fatal(err)
	}
	for _, v := range violations {
		text := fmt.Sprintf("%s: %s (%s): %s", name, v.ID, v.Impact, v.Help)
		for i, n := range v.Nodes {
			if i == 3 {
				break
			}
			text += fmt.Sprintf("\n   %.200s\n   %s", n.HTML, strings.ReplaceAll(n.FailureSummary, "\n", " "))
		}
		if v.Impact == "serious" || v.Impact == "critical" {
			tb.t.Error(text)
		} else {
			tb.t.Log(text)
		}
	}
}
