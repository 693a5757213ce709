package source

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
)

func TestPanicsOfDetachedWork(t *testing.T) {
	var log bytes.Buffer
	ctx := logr.NewContextWithSlogLogger(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	for want, panics := range map[string]func(){
		"panic: runtime error: index out of range [3] with length 0": func() { var none []int; none[len("abc")]++ },
		"panic: bad delta":       func() { panic("bad\ndelta") },
		"panic: bad tree":        func() { panic(errors.New("bad tree")) },
		"panic: *sync.WaitGroup": func() { panic(&sync.WaitGroup{}) },
	} {
		for _, ctx := range []context.Context{ctx, t.Context()} {
			var running Running
			_, err := Detached(ctx, &running, func() (int, error) { panics(); return 7, nil }, func(int) { t.Error("a panic has no value") })
			running.Wait()
			if !errors.Is(err, ErrPanic) || err.Error() != want {
				t.Errorf("error is %q, want %q", err, want)
			}
		}
	}
	if n := strings.Count(log.String(), "panic_test.go"); n < 4 {
		t.Errorf("the log has the stack %d times:\n%s", n, &log)
	}
}
