package drift

import (
	"fmt"

	"github.com/cleat-dev/cleat/internal/api"
)

// Mode says what is to become of an object that is not as it was left.
type Mode string

const (
	// Correct: it is recorded and applied again.
	Correct Mode = "correct"
	// Warn: it is recorded and told, and left as it is until Git says something else about it.
	Warn Mode = "warn"
	// Off: nobody looks, and it is left as it is until Git says something else about it.
	Off Mode = "off"
)

// ParseMode reads the annotation api.DriftAnnotation. Without it the mode is otherwise.
func ParseMode(annotations map[string]string, otherwise Mode) (Mode, error) {
	switch value, set := annotations[api.DriftAnnotation]; {
	case !set:
		return otherwise, nil
	case Mode(value) == Correct, Mode(value) == Warn, Mode(value) == Off:
		return Mode(value), nil
	default:
		return otherwise, fmt.Errorf("the annotation %s is %q, it can be %s, %s or %s", api.DriftAnnotation, value, Correct, Warn, Off)
	}
}
