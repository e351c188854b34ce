//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"concord/test/process"
)

// TestPages measures writes while a hundred pages of the cluster are open at the node that takes them, and while none
// is. Both take turns.
func TestPages(t *testing.T) {
	const pages, turns, turn = 100, 10, 3 * time.Second
	c := process.Start(t, process.Options{Meta: 1, Data: 3})
	if _, err := c.Data[0].Client().Query(t.Context(), "", "CREATE DATABASE live WITH REPLICATION 2"); err != nil {
		t.Fatal(err)
	}
	sent := 0
	write := func() time.Duration {
		var b []byte
		for i := range 50 {
			sent++
			b = fmt.Appendf(b, "w,host=%d v=%d %d\n", i, sent, start.Add(time.Duration(sent)*time.Millisecond).UnixNano())
		}
		begun := time.Now()
		if err := c.Data[0].Client().Write(t.Context(), "live", "all", b); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	writes := func() (took []time.Duration) {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for begun := time.Now(); time.Since(begun) < turn; <-tick.C {
			took = append(took, write())
		}
		return took
	}
	writes() // warms up
	var none, beside []time.Duration
	for range turns {
		none = append(none, writes()...)
		closePages := openPages(t, c.Data[0].Client().Base, pages)
		beside = append(beside, writes()...)
		closePages()
	}
	slices.Sort(none)
	slices.Sort(beside)
	fmt.Printf("\nwrites of 50 points to two owners\tmedian\tp99\n")
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"no page", none}, {fmt.Sprint(pages, " open pages"), beside}} {
		fmt.Printf("%s (%d writes)\t%v\t%v\n", row.name, len(row.took), row.took[len(row.took)/2], row.took[len(row.took)*99/100])
	}
}

// openPages opens streams of a node's page, and returns when each has the whole state.
func openPages(t *testing.T, base string, n int) (closeAll func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var reading, opened sync.WaitGroup
	opened.Add(n)
	for range n {
		reading.Go(func() {
			err := readPage(ctx, base, opened.Done)
			if ctx.Err() == nil {
				t.Errorf("a stream of the page ended: %v", err)
			}
		})
	}
	opened.Wait()
	return func() { cancel(); reading.Wait() }
}

// readPage reads one stream of the page until ctx ends. It calls opened when something came, or nothing will.
func readPage(ctx context.Context, base string, opened func()) error {
	once := sync.OnceFunc(opened)
	defer once()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/cluster/events", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
		return err
	}
	once()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
