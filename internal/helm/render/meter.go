package render

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrLimit means that rendering took more than it may. Its text says what, and where in the templates.
var ErrLimit = errors.New("over the limit of rendering")

// Limits bound one rendering. Zero values mean those of DefaultLimits.
type Limits struct {
	// Output is how many bytes the text of all templates together may have, and any text on the way to it.
	Output int64
	// Memory is how many bytes functions and includes may make on the way, counting what is soon thrown away.
	Memory int64
	// Steps is how many nodes of templates may be run.
	Steps int64
	// Depth is how deep templates may be within each other.
	Depth int
	// Time is how long it may take. One call of a function is not interrupted.
	Time time.Duration
}

// DefaultLimits leave much room: what Helm stores has to fit, compressed, into a Secret of 1 MiB, and the largest of public charts
// renders 3 MiB in a tenth of a second.
var DefaultLimits = Limits{Output: 16 << 20, Memory: 256 << 20, Steps: 10_000_000, Depth: 3000, Time: 30 * time.Second}

func (l Limits) orDefault() Limits {
	d := DefaultLimits
	if l.Output > 0 {
		d.Output = l.Output
	}
	if l.Memory > 0 {
		d.Memory = l.Memory
	}
	if l.Steps > 0 {
		d.Steps = l.Steps
	}
	if l.Depth > 0 {
		d.Depth = l.Depth
	}
	if l.Time > 0 {
		d.Time = l.Time
	}
	return d
}

// meter counts what one rendering takes. Once it has said no, it does so for ever.
type meter struct {
	ctx    context.Context
	limits Limits
	end    time.Time

	steps, memory, output int64
	depth, tpls           int
	unchecked             int64 // steps since the clock was looked at
	over                  error
}

func newMeter(ctx context.Context, limits Limits) *meter {
	return &meter{ctx: ctx, limits: limits, end: time.Now().Add(limits.Time)}
}

// stop ends the rendering with the limit that was met.
func (m *meter) stop(format string, args ...any) error {
	if m.over == nil {
		m.over = fmt.Errorf("%w: "+format, append([]any{ErrLimit}, args...)...)
	}
	return m.over
}

// betweenChecks is how many steps pass between two looks at the clock.
const betweenChecks = 1000

// step counts n steps.
func (m *meter) step(n int64) error {
	if m.over != nil {
		return m.over
	}
	if m.steps += n; m.steps > m.limits.Steps {
		return m.stop("the templates take more than %d steps", m.limits.Steps)
	}
	if m.unchecked += n; m.unchecked < betweenChecks {
		return nil
	}
	m.unchecked = 0
	return m.check()
}

// check looks at the clock, and whether anybody still wants the result.
func (m *meter) check() error {
	switch {
	case m.over != nil:
	case m.ctx.Err() != nil:
		m.over = fmt.Errorf("rendering was ended: %w", m.ctx.Err())
	case time.Now().After(m.end):
		return m.stop("the templates take longer than %s", m.limits.Time)
	}
	return m.over
}

const overMemory = "the templates make more than %d bytes on the way"

// take counts n bytes that are made on the way.
func (m *meter) take(n int64) error {
	if m.over != nil {
		return m.over
	}
	if m.memory += n; m.memory > m.limits.Memory || n < 0 {
		return m.stop(overMemory, m.limits.Memory)
	}
	return m.step(1 + n>>10) // to make bytes takes time
}

// text counts a text of n bytes, which may not be longer than all output.
func (m *meter) text(n int64) error {
	if n > m.limits.Output || n < 0 {
		return m.stop("a text is longer than %d bytes", m.limits.Output)
	}
	return m.take(n)
}

// enter is called by the first node of each template.
func (m *meter) enter(weight int64) (string, error) {
	if m.depth++; m.depth > m.limits.Depth {
		return "", m.stop("templates are more than %d deep within each other", m.limits.Depth)
	}
	return "", m.step(weight)
}

// leave is called by the last node of each template.
func (m *meter) leave() string {
	m.depth--
	return ""
}

// again is called by the first node of the body of each loop.
func (m *meter) again(weight int64) (string, error) { return "", m.step(weight) }

// buffer is what a template is rendered into.
type buffer struct {
	meter *meter
	data  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // what the nodes that count print
	}
	if int64(b.data.Len())+int64(len(p)) > b.meter.limits.Output {
		return 0, b.meter.stop("a template renders more than %d bytes", b.meter.limits.Output)
	}
	// Steps are only counted: an error here would not say in which line.
	b.meter.steps += int64(len(p)) >> 10
	if b.meter.memory += int64(len(p)); b.meter.memory > b.meter.limits.Memory {
		return 0, b.meter.stop(overMemory, b.meter.limits.Memory)
	}
	return b.data.Write(p)
}

func (b *buffer) String() string { return b.data.String() }
