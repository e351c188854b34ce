package deletes

import (
	"sync"
	"testing"
	"testing/synctest"
)

// A wait ends with the writes that ran when it began, and writes begin meanwhile.
func TestWritesBeginBesideAWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w writing
		w.await() // for none
		first := w.begin()
		var waits sync.WaitGroup
		waited := make(chan int, 2)
		waits.Go(func() { w.await(); waited <- 1 })
		synctest.Wait()
		second := w.begin()
		waits.Go(func() { w.await(); waited <- 2 })
		synctest.Wait()
		third := w.begin()
		second()
		synctest.Wait()
		if len(waited) > 0 {
			t.Fatal("a wait ended before the first write, which both wait for")
		}
		first()
		waits.Wait()
		third()
		if len(w.since) != 1 {
			t.Errorf("%d groups of writes are kept when none runs, want the one for new writes", len(w.since))
		}
	})
}

// No write begins while writes are held, and those that run are waited for.
func TestNoWriteBeginsWhileWritesAreHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w writing
		first, held := w.begin(), make(chan func(), 1)
		go func() { held <- w.hold() }()
		synctest.Wait()
		mayBegin := func() bool {
			if w.held.TryRLock() {
				w.held.RUnlock()
				return true
			}
			return false
		}
		if len(held) > 0 || mayBegin() {
			t.Error("writes are held before the first one has ended, or others may begin")
		}
		first()
		release := <-held
		if mayBegin() {
			t.Error("a write may begin while writes are held")
		}
		release()
		w.begin()()
	})
}
