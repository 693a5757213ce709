package source

import (
	"sync"
	"testing"
)

// TestRunningMayGrowWhileWaitedFor: nothing is lost or waited for in vain when work begins beside the wait for its end; with a
// sync.WaitGroup, this is a race.
func TestRunningMayGrowWhileWaitedFor(t *testing.T) {
	var running Running
	var others sync.WaitGroup
	var mu sync.Mutex
	ended := 0
	for range 100 {
		others.Go(func() {
			running.Go(func() {
				mu.Lock()
				defer mu.Unlock()
				ended++
			})
		})
		others.Go(running.Wait)
	}
	others.Wait()
	running.Wait()
	if ended != 100 { // which Wait has ordered before
		t.Errorf("%d of 100 have ended", ended)
	}
}
