package webhook

import (
	"sync"
	"time"
)

const (
	// replayApart is how long after a payload was taken the same is refused. Later it is taken once more, as when somebody has the
	// sender deliver it again: so who has caught one has a source looked at once a minute, and not with every request.
	replayApart = time.Minute
	// maxTaken is how many payloads are remembered. Only genuine deliveries are.
	maxTaken = 16384
)

// replays knows the payloads that were taken lately, by their path and what they were signed with.
type replays struct {
	now func() time.Time

	mu     sync.Mutex
	taken  map[string]time.Time
	oldest []sighting
}

type sighting struct {
	payload string
	at      time.Time
}

func newReplays() *replays { return &replays{now: time.Now, taken: map[string]time.Time{}} }

// seen says whether a payload was taken lately.
func (r *replays) seen(payload string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(r.now(), maxTaken)
	_, ok := r.taken[payload]
	return ok
}

// remember notes that a payload was taken.
func (r *replays) remember(payload string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.forget(now, maxTaken-1)
	r.taken[payload] = now
	r.oldest = append(r.oldest, sighting{payload, now})
}

// forget drops what was taken long ago, and the oldest of more than there is room for. It is called with mu held.
func (r *replays) forget(now time.Time, room int) {
	for len(r.oldest) > 0 && (len(r.oldest) > room || now.Sub(r.oldest[0].at) >= replayApart) {
		first := r.oldest[0]
		r.oldest = r.oldest[1:]
		if r.taken[first.payload].Equal(first.at) { // and not taken once more since
			delete(r.taken, first.payload)
		}
	}
}
