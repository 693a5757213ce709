package api

import (
	"errors"
	"fmt"
	"time"
)

// Retry says what makes it worth trying again after a Fault.
type Retry string

const (
	// RetryBackoff tries again after a delay that doubles: something outside is failing.
	RetryBackoff Retry = "backoff"
	// RetryInterval tries again at the object's own retryInterval: what Git says does not work on this cluster yet.
	RetryInterval Retry = "interval"
	// RetryWoken waits for a watch to wake the object; a long delay is only the safety net.
	RetryWoken Retry = "woken"
	// RetryNever waits for the object itself to change: it is stalled.
	RetryNever Retry = "never"
)

// Fault is why an attempt ended without success. It is made where the reason is known and turned into conditions, an
// event, a log line and a requeue in one place, by internal/reconcile.
type Fault struct {
	// Reason is the condition and event reason, a CamelCase word.
	Reason string
	// Retry says what is waited for.
	Retry Retry
	// After is the least delay of RetryBackoff, where what failed has said how long it wants to be left alone, and the delay of
	// RetryInterval, where that is not the object's own.
	After time.Duration
	// Err says what went wrong, where, and what to do. Its text is the same for the same failure: no times, no
	// durations, no secrets.
	Err error
}

func (f *Fault) Error() string { return f.Err.Error() }

func (f *Fault) Unwrap() error { return f.Err }

// Faultf makes a Fault whose error is formatted as by fmt.Errorf.
func Faultf(reason string, retry Retry, format string, args ...any) *Fault {
	return &Fault{Reason: reason, Retry: retry, Err: fmt.Errorf(format, args...)}
}

// AsFault returns the Fault in err's chain, or err itself under the given reason and retry when there is none.
func AsFault(err error, reason string, retry Retry) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Reason: reason, Retry: retry, Err: err}
}
