package oci

import (
	"errors"
	"testing"
	"time"

	"github.com/cleat-dev/cleat/internal/source"
)

// TestPanicsEndTheWait asks while the work for the same question is about to panic.
func TestPanicsEndTheWait(t *testing.T) {
	s := shared[string, int]{most: 1}
	now := time.Now()
	begun, held, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.do(t.Context(), "a", now, now, func() (int, error) { close(begun); <-held; panic("a bug") })
		first <- err
	}()
	<-begun
	c, mine := s.join("a", now, now)
	if mine {
		t.Fatal("the work is begun twice")
	}
	close(held)
	<-c.done
	if err := <-first; !errors.Is(err, source.ErrPanic) || !errors.Is(c.err, source.ErrPanic) {
		t.Errorf("errors are %v and %v", err, c.err)
	}
}
