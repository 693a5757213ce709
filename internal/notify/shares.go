package notify

import (
	"errors"
	"time"

	"golang.org/x/time/rate"
)

const (
	// share is how much time in a second the patterns of one namespace's Alerts may take on end: ten such namespaces keep the one
	// goroutine busy that matches. Patterns that people write take microseconds.
	share = 100 * time.Millisecond
	// maxSpent is how much they may take at once, when they have taken little before.
	maxSpent = 5 * time.Second
	// maxShares is how many namespaces are told apart at a time.
	maxShares = 4096
)

var errShare = errors.New("the patterns of the Alerts of this namespace take more time than is theirs: the event is not told, " +
	"nor are others until they are fewer or simpler")

// shares see to it that the patterns of one namespace's Alerts keep nobody else's from being told (faults.md A28). It is used by one
// goroutine.
type shares struct {
	now func() time.Time
	by  map[string]*rate.Limiter // of microseconds
}

func newShares() *shares { return &shares{now: time.Now, by: map[string]*rate.Limiter{}} }

// spend does work on the account of a namespace, and returns false without doing it if that is overdrawn.
func (s *shares) spend(namespace string, work func()) bool {
	began := s.now()
	account := s.by[namespace]
	if account == nil {
		if len(s.by) >= maxShares {
			clear(s.by) // all begin anew
		}
		account = rate.NewLimiter(rate.Limit(share.Microseconds()), int(maxSpent.Microseconds()))
		s.by[namespace] = account
	}
	if account.TokensAt(began) < 0 {
		return false
	}
	work()
	ended := s.now()
	account.ReserveN(ended, int(min(ended.Sub(began), maxSpent).Microseconds()))
	return true
}
