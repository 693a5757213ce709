package reconcile

import (
	"math/rand/v2"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cleat-dev/cleat/internal/api"
)

// Timing says when objects are looked at again; the values are the agent's flags.
type Timing struct {
	// MinRetry and MaxRetry bound the delay of RetryBackoff, which doubles with every failure in a row.
	MinRetry, MaxRetry time.Duration
	// Dependency is the safety net of RetryWoken.
	Dependency time.Duration
	// JitterPercent spreads intervals by that share in both directions, so that a thousand objects created at once do
	// not come back at once.
	JitterPercent int
}

// requeuer turns outcomes into delays. It counts failures in a row per object.
type requeuer struct {
	timing  Timing
	backoff workqueue.TypedRateLimiter[ctrl.Request]
}

func newRequeuer(t Timing) *requeuer {
	return &requeuer{timing: t, backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](t.MinRetry, t.MaxRetry)}
}

// after returns how long the object rests. Zero means until something wakes it.
func (r *requeuer) after(req ctrl.Request, end Outcome, interval, retryInterval time.Duration) time.Duration {
	if end.Done {
		return 0
	}
	if end.Fault == nil || end.Fault.Retry != api.RetryBackoff {
		r.backoff.Forget(req)
	}
	if end.Waiting != nil {
		return end.Waiting.After
	}
	if end.Fault == nil {
		return jitter(interval, r.timing.JitterPercent)
	}
	switch end.Fault.Retry {
	case api.RetryBackoff:
		return max(r.backoff.When(req), end.Fault.After)
	case api.RetryInterval:
		if end.Fault.After > 0 {
			return end.Fault.After
		}
		return retryInterval
	case api.RetryWoken:
		return r.timing.Dependency
	case api.RetryNever:
		return 0
	}
	return r.backoff.When(req) // an unknown Retry is treated as the cautious one
}

// jitter spreads d evenly over d ± percent.
func jitter(d time.Duration, percent int) time.Duration {
	if percent <= 0 || d <= 0 {
		return d
	}
	span := float64(d) * float64(percent) / 100
	return d + time.Duration((rand.Float64()*2-1)*span)
}
