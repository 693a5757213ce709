package source

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/go-logr/logr"
)

// ErrPanic means: the code that was to do the work has a bug.
var ErrPanic = errors.New("panic")

// Recovered calls work and returns a panic as an error that wraps ErrPanic: what one object's server sends may cost that
// object an attempt, and not all of them the process. The error names the panic in the same words every time; the stack goes
// to the log that ctx brings along, if it does.
func Recovered[T any](ctx context.Context, work func() (T, error)) (value T, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		err = fmt.Errorf("%w: %s", ErrPanic, panicText(p))
		if log := logr.FromContextAsSlogLogger(ctx); log != nil {
			log.ErrorContext(ctx, "recovered from a panic", "error", err, "stack", string(debug.Stack()))
		}
	}()
	return work()
}

// panicText tells of a value that has no words of its own only the type: the rest may be pointers, which always differ.
func panicText(p any) string {
	switch p.(type) {
	case error, string:
		return OneLine(fmt.Sprint(p))
	default:
		return fmt.Sprintf("%T", p)
	}
}
