package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cleat-dev/cleat/internal/api"
)

// Step is one named part of an attempt. Its name is the metric label and the log key.
type Step[A any] struct {
	Name string
	// Progress is what the condition Reconciling says while the step runs long, and after the step has failed. A step
	// without it is quick and is never reported.
	Progress func(A) string
	// Do does the step's work. It returns a *api.Fault where the reason is known, ErrDone to end the attempt early and
	// well, or a *Waiting; it never touches status.
	Do func(context.Context, A) error
}

// ErrDone ends an attempt early without a fault and without a report: the object is gone, and nothing is left to do.
var ErrDone = errors.New("nothing left to do")

// Waiting ends a run whose attempt is not over: what it waits for wakes the object, and no worker is held meanwhile.
type Waiting struct {
	// After is how long it takes until the object looks again if nothing has woken it.
	After time.Duration
	// Quiet keeps the wait out of the status: it has only just begun.
	Quiet bool
}

func (w *Waiting) Error() string { return "waiting" }

// Outcome is what one run of the steps came to. At most one of Fault and Waiting is set; with neither, it succeeded.
type Outcome struct {
	Fault   *api.Fault
	Waiting *Waiting
	// Done: a step found that there is nothing left to do.
	Done bool
	// Step and Progress are the name and progress message of the step that ended the run.
	Step     string
	Progress string
	// Took is how long the run lasted.
	Took time.Duration
}

// Succeeded says that the attempt ran to its end.
func (o Outcome) Succeeded() bool { return o.Fault == nil && o.Waiting == nil && !o.Done }

// runSteps runs the steps in order up to the first that does not return nil.
func runSteps[A any](ctx context.Context, a A, steps []Step[A], around func(Step[A], func() error) error) Outcome {
	for i, step := range steps {
		err := around(step, func() error { return step.Do(ctx, a) })
		if err == nil && ctx.Err() != nil && i < len(steps)-1 {
			err = fmt.Errorf("the time for this run was used up by the step %q: %w", step.Name, ctx.Err())
		}
		if err == nil {
			continue
		}
		if errors.Is(err, ErrDone) {
			return Outcome{Done: true}
		}
		end := Outcome{Step: step.Name}
		if step.Progress != nil {
			end.Progress = step.Progress(a)
		}
		if errors.As(err, &end.Waiting) {
			return end
		}
		end.Fault = api.AsFault(err, api.FailedReason, api.RetryBackoff)
		return end
	}
	return Outcome{}
}

// waitsForOthers says that the attempt could not begin because something it depends on is not there yet.
func (o Outcome) waitsForOthers() bool { return o.Fault != nil && o.Fault.Retry == api.RetryWoken }
