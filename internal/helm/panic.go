package helm

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// errPanic means: the code that was to do the work has a bug.
var errPanic = errors.New("panic")

// recovered makes an error of a panic: what one release holds may cost it an action, and not all of them the process. It is to be
// deferred. The error is the same every time; the stack goes to the log.
func recovered(log *slog.Logger, err *error) {
	cause := recover()
	if cause == nil {
		return
	}
	*err = fmt.Errorf("%w: %v", errPanic, cause)
	log.Error("recovered from a panic", "stack", string(debug.Stack())) // without what it says, which may quote a secret
}
