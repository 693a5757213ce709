package helm

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

const (
	// keptLines is how many of the last lines that Helm logs are kept for an event.
	keptLines = 10
	// keptLine is how long each may be, in bytes.
	keptLine = 1000
)

// tail keeps the last lines that Helm has logged during an action.
type tail struct {
	mu    sync.Mutex
	lines []string
}

// printf is Helm's logger.
func (t *tail) printf(format string, args ...any) {
	line := strings.TrimSpace(fmt.Sprintf(format, args...))
	if len(line) > keptLine {
		line = line[:keptLine] + "..."
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) > 0 && t.lines[len(t.lines)-1] == line {
		return // Helm says so at every turn of a wait
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > keptLines {
		t.lines = t.lines[1:]
	}
}

// text is what was kept, without what is secret in the given objects.
func (t *tail) text(secrets []*unstructured.Unstructured) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return object.MaskText(strings.Join(t.lines, "\n"), secrets...)
}
