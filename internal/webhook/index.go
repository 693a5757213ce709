package webhook

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// hook is a Receiver as hooks need it: understood once, for all that will come. It is not changed.
type hook struct {
	receiver *notificationv1.Receiver
	key      types.NamespacedName
	path     string
	kind     string
	sender   sender
	secret   string // name; empty for a type without
	events   []string
	rules    []rule
	trusts   []trust
	// filtered says that a rule has filters, which look at the payload.
	filtered bool
	// closed says why the hook takes nothing; nil when it does.
	closed error
}

var (
	errSuspended = errors.New("the Receiver is suspended")
	errNotReady  = errors.New("the Receiver is not ready")
)

// understand makes a hook of a Receiver. One that is not understood is closed.
func (s *Server) understand(u *unstructured.Unstructured) *hook {
	h := &hook{key: client.ObjectKeyFromObject(u)}
	h.path, _, _ = unstructured.NestedString(u.Object, "status", "webhookPath")
	h.receiver = &notificationv1.Receiver{}
	if err := api.Decode(u, h.receiver); err != nil {
		h.closed = errNotReady
		return h
	}
	spec := &h.receiver.Spec
	h.kind, h.events = spec.Type, spec.Events
	if spec.SecretRef != nil && spec.Type != notificationv1.GenericOIDCReceiver {
		h.secret = spec.SecretRef.Name
	}
	var errs [3]error
	h.sender, errs[0] = senderOf(spec.Type)
	h.rules, errs[1] = rulesOf(h.receiver, s.options.NoCrossNamespace)
	h.trusts, errs[2] = trusts(h.receiver)
	for _, r := range h.rules {
		h.filtered = h.filtered || len(r.filters) > 0
	}
	ready := reconcile.Condition(h.receiver, meta.ReadyCondition)
	switch {
	case spec.Suspend:
		h.closed = errSuspended
	case errors.Join(errs[:]...) != nil, ready == nil, ready.Status != metav1.ConditionTrue, !u.GetDeletionTimestamp().IsZero():
		h.closed = errNotReady
	case h.secret == "" && spec.Type != notificationv1.GenericOIDCReceiver:
		h.closed = errNotReady // it would take anything as signed with nothing
	}
	return h
}

// index finds hooks by the digest of their path. For some types the path is all that a caller must know: how long it takes to look
// for one tells something of digests at most, and so nothing of paths.
type index struct {
	mu     sync.RWMutex
	byPath map[digest]*hook
	byKey  map[types.NamespacedName]*hook
}

type digest [sha256.Size]byte

func digestOf(path string) digest { return sha256.Sum256([]byte(path)) }

// maxPath is how long a path may be, in bytes; ours have some seventy.
const maxPath = 256

func newIndex() *index {
	return &index{byPath: map[digest]*hook{}, byKey: map[types.NamespacedName]*hook{}}
}

func (i *index) find(path string) *hook {
	if len(path) > maxPath {
		return nil
	}
	key := digestOf(path)
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.byPath[key]
}

// put takes in a Receiver as it is now.
func (i *index) put(h *hook) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.remove(h.key)
	i.byKey[h.key] = h
	if h.path != "" {
		i.byPath[digestOf(h.path)] = h
	}
}

func (i *index) drop(key types.NamespacedName) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.remove(key)
}

func (i *index) remove(key types.NamespacedName) {
	was := i.byKey[key]
	delete(i.byKey, key)
	if was == nil {
		return
	}
	if path := digestOf(was.path); i.byPath[path] == was {
		delete(i.byPath, path)
	}
}

// follow keeps the index as a watch says.
func (s *Server) follow() toolscache.ResourceEventHandler {
	put := func(o any) {
		if u, ok := o.(*unstructured.Unstructured); ok {
			h := s.understand(u)
			s.secrets.forget(h)
			s.index.put(h)
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    put,
		UpdateFunc: func(_, o any) { put(o) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if u, ok := o.(*unstructured.Unstructured); ok {
				s.index.drop(client.ObjectKeyFromObject(u))
			}
		},
	}
}

// describe names a hook in the log.
func (h *hook) describe() []any {
	return []any{"controllerKind", api.ReceiverKind.Kind, "name", h.key.Name, "namespace", h.key.Namespace, "type", h.kind}
}

func (h *hook) String() string { return fmt.Sprintf("%s/%s", api.ReceiverKind.Kind, h.key) }
