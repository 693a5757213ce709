package kustomizer

import (
	"context"
	"fmt"
	"sync"

	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// Schema guards the OpenAPI schema that the kustomize library keeps in a variable of the process. It is a variable of the
// process itself, because that is: all who run the library share it whether they know or not.
//
// Nearly every build reads no other schema than the one built into the library. Such builds share it, and run side by side.
// A kustomization file with a field `openapi` puts another in its place; that build runs alone, and leaves the built-in one.
var Schema SchemaLock

// SchemaLock is a lock whose readers do not queue behind a writer that waits: a build that never ends must not keep all others
// from beginning. It can be given up while waiting.
type SchemaLock struct {
	mu      sync.Mutex
	sharing int           // builds under way that only read
	alone   bool          // the build that changes the schema is under way
	moved   chan struct{} // closed when any of them ends, if somebody waits for it
}

// Share waits until the built-in schema is in place, and keeps it there until done is called.
func (s *SchemaLock) Share(ctx context.Context) (done func(), err error) {
	err = s.wait(ctx, func() bool {
		if s.alone {
			return false
		}
		if s.sharing == 0 {
			openapi.Schema() // parses it unless that has been done: the library itself does so without a lock that would do
		}
		s.sharing++
		return true
	})
	return func() { s.end(func() { s.sharing-- }) }, err
}

// Replace waits until no other build is under way, and keeps it so until done is called. The build begins with the built-in
// schema, to which its own is added, as in Flux.
func (s *SchemaLock) Replace(ctx context.Context) (done func(), err error) {
	err = s.wait(ctx, func() bool {
		if s.alone || s.sharing > 0 {
			return false
		}
		s.alone = true
		openapi.ResetOpenAPI()
		openapi.Schema()
		return true
	})
	return func() {
		s.end(func() {
			s.alone = false
			openapi.ResetOpenAPI()
		})
	}, err
}

// wait calls take, under the lock, until it says that it has got what it wants.
func (s *SchemaLock) wait(ctx context.Context, take func() bool) error {
	for {
		s.mu.Lock()
		if take() {
			s.mu.Unlock()
			return nil
		}
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a build with an openapi field of its own: %w", ctx.Err())
		}
	}
}

func (s *SchemaLock) end(give func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	give()
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}
