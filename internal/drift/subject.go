package drift

import (
	"context"
	"sync"
	"time"

	"github.com/fluxcd/pkg/ssa/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// Owner is who has applied objects.
type Owner struct {
	Kind string
	types.NamespacedName
}

// Subject is what the engine has to know of an owner to look after what it has applied. Its functions are called by several
// goroutines.
type Subject struct {
	Owner Owner
	// Applier is who has applied the objects; Options are how.
	Applier *kube.Applier
	Options kube.ApplyOptions
	// Ignored are the fields that others may change.
	Ignored jsondiff.CompiledIgnoreRules
	// Policy says what is to become of the objects of the owner as it is now: it is read anew each time. ErrNoOwner: it is gone.
	Policy func(context.Context) (Policy, error)
	// Act comes before anything is asked or done: whoever is acted as has to exist.
	Act func(context.Context) error
	// Wake has the owner run: to report what the record says, or to render what was not kept.
	Wake func()
	// Write makes a live object as it is declared, and asks guard about it before; nil does it as the Applier applies. It tells the
	// Look what it has written.
	Write func(ctx context.Context, l *kube.Look, guard func(live *unstructured.Unstructured) error) error
	// Words, unless nil, are those of whose events others know.
	Words *Words
	// Tell sends an event about the owner. It does not block.
	Tell func(warning bool, reason, message string)
}

// subject is one owner.
type subject struct {
	mu sync.Mutex
	Subject
	declared declared
	book     *book
	restored bool // what an earlier process has kept is in the book
	// observed is when each object that is waited for was first seen to have moved.
	observed map[object.Key]time.Time

	// paused counts the runs of the owner that are at the objects; running are corrections, each with what ends it.
	paused  int
	running map[int]context.CancelFunc
	next    int
	idle    chan struct{} // closed when nothing runs any more; nil while nobody waits
	// pending moved while the owner was at the objects.
	pending map[object.Key]struct{}
	all     bool

	// Of telling.
	scheduled bool      // it is going to be told
	lastTold  time.Time // when it was last
	events    []told    // since then
	told      Condition // that the owner was woken to report
}

// told is something to tell.
type told struct {
	state  State
	failed bool
	object string
	line   string
}

func newSubject(owner Owner) *subject {
	return &subject{
		Subject: Subject{Owner: owner}, book: newBook(), observed: map[object.Key]time.Time{},
		running: map[int]context.CancelFunc{}, pending: map[object.Key]struct{}{},
	}
}

// begin notes a correction unless the owner itself is at the objects; then it is false, and the object is looked at when that
// is over.
func (s *subject) begin(ctx context.Context, key object.Key) (_ context.Context, end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused > 0 {
		s.pending[key] = struct{}{}
		return nil, nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, correctionTimeout)
	id := s.next
	s.next++
	s.running[id] = cancel
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, id)
		if len(s.running) == 0 && s.idle != nil {
			close(s.idle)
			s.idle = nil
		}
	}, true
}

// pause keeps corrections from beginning, ends those that run, and returns when they have ended, which takes no longer than a
// request takes to be given up.
func (s *subject) pause() {
	s.mu.Lock()
	s.paused++
	for _, cancel := range s.running {
		cancel()
	}
	var idle chan struct{}
	if len(s.running) > 0 {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle = s.idle
	}
	s.mu.Unlock()
	if idle != nil {
		<-idle
	}
}

// resume ends a pause and returns what has moved meanwhile.
func (s *subject) resume() (keys []object.Key, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused--
	if s.paused > 0 {
		return nil, false
	}
	for key := range s.pending {
		keys = append(keys, key)
	}
	all = s.all
	clear(s.pending)
	s.all = false
	return keys, all
}
