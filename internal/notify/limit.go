package notify

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"sync"
	"time"
)

// maxRemembered is how many events are remembered in order to know the same when it comes again.
const maxRemembered = 8192

// What differs between two messages that say the same: durations, and the names of temporary folders.
var passing = regexp.MustCompile(`\b(?:\d+(?:\.\d+)?(?:ns|µs|ms|s|m|h))+\b|/tmp/\S*`)

// limiter knows the events of the last interval, so that the same is told once.
type limiter struct {
	interval time.Duration // 0 is no limit
	now      func() time.Time

	mu     sync.Mutex
	seen   map[string]*list.Element
	oldest *list.List // of *sighting, the oldest in front
}

type sighting struct {
	key string
	at  time.Time
}

func newLimiter(interval time.Duration) *limiter {
	return &limiter{interval: interval, now: time.Now, seen: map[string]*list.Element{}, oldest: list.New()}
}

// repeated says whether an event with this key was seen within the interval, and remembers it if not.
func (l *limiter) repeated(key string) bool {
	if l.interval <= 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for e := l.oldest.Front(); e != nil && (now.Sub(e.Value.(*sighting).at) >= l.interval || l.oldest.Len() >= maxRemembered); e = l.oldest.Front() {
		delete(l.seen, l.oldest.Remove(e).(*sighting).key)
	}
	if _, ok := l.seen[key]; ok {
		return true
	}
	l.seen[key] = l.oldest.PushBack(&sighting{key, now})
	return false
}

// key is what makes an event the same as another: what Flux looks at, but for what passes.
func (n incoming) key() string {
	o, metadata := n.InvolvedObject, n.stripped(eventGroup, n.group())
	text := fmt.Sprintf("event/name=%s/namespace=%s/kind=%s/message=%s", o.Name, o.Namespace, o.Kind, passing.ReplaceAllString(n.Message, "…"))
	for _, key := range []string{originRevisionKey, revisionKey} {
		if value := metadata[key]; value != "" {
			text += "/" + key + "=" + value
		}
	}
	for _, group := range []string{n.group(), eventGroup} {
		if token := n.Metadata[group+"/"+tokenKey]; token != "" {
			text += "/token=" + token
		}
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
