package helm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"github.com/cleat-dev/cleat/internal/kube"
)

// causes are what the last actions on releases have failed of outside these, and the watches that tell of a change. All who
// wait for news of the same objects share a watch.
type causes struct {
	wake func(types.NamespacedName)
	log  *slog.Logger

	mu      sync.Mutex
	by      map[types.NamespacedName]*cause // nil: it is known that there is none
	watches map[newsOf]*newsWatch
	stopped bool
	wg      sync.WaitGroup
}

type newsOf struct {
	news
	cluster *kube.Cluster
}

type newsWatch struct {
	users  map[types.NamespacedName]*cause
	cancel context.CancelFunc
}

func newCauses(wake func(types.NamespacedName), log *slog.Logger) *causes {
	return &causes{wake: wake, log: log, by: map[types.NamespacedName]*cause{}, watches: map[newsOf]*newsWatch{}}
}

// remember keeps what an object's last action has failed of, nil for nothing, and wakes the object when that changes.
func (s *causes) remember(key types.NamespacedName, c *cause, cluster *kube.Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(key)
	s.by[key] = c
	if c == nil || s.stopped {
		return
	}
	of := newsOf{c.news, cluster}
	w := s.watches[of]
	if w == nil {
		ctx, cancel := context.WithCancel(context.Background())
		w = &newsWatch{users: map[types.NamespacedName]*cause{}, cancel: cancel}
		s.watches[of] = w
		s.wg.Go(func() { s.follow(ctx, of) })
	}
	w.users[key] = c
}

// recall returns what is remembered. It is not known when no action has ended in this process.
func (s *causes) recall(key types.NamespacedName) (c *cause, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, known = s.by[key]
	return c, known
}

// forget drops what is kept of an object that is gone.
func (s *causes) forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(key)
	delete(s.by, key)
}

// leave ends the watch of an object's cause, if nobody else needs it. The caller holds the lock.
func (s *causes) leave(key types.NamespacedName) {
	for of, w := range s.watches {
		delete(w.users, key)
		if len(w.users) == 0 {
			w.cancel()
			delete(s.watches, of)
		}
	}
}

// stop ends all watches, and returns when they have ended.
func (s *causes) stop() {
	s.mu.Lock()
	s.stopped = true
	for _, w := range s.watches {
		w.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// follow watches until ctx ends. Where the agent may not watch, the safety net of those that wait is what is left.
func (s *causes) follow(ctx context.Context, of newsOf) {
	user, err := of.cluster.User("")
	if err != nil {
		s.log.Warn("cannot watch what releases have failed of", "resource", of.resource.String(), "error", err)
		return
	}
	all, err := metadata.NewForConfigAndClient(user.Config, user.HTTP)
	if err != nil {
		s.log.Warn("cannot watch what releases have failed of", "resource", of.resource.String(), "error", err)
		return
	}
	objects := all.Resource(of.resource).Namespace(of.namespace)
	narrow := func(options *metav1.ListOptions) {
		if of.name != "" {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", of.name).String()
		}
	}
	source := kube.ListFirst(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			narrow(&options)
			return objects.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			narrow(&options)
			return objects.Watch(ctx, options)
		},
	})
	listed := map[types.NamespacedName]string{}
	// It ends with ctx alone, and its error is that of ctx.
	_, _ = watchtools.UntilWithSync(klog.NewContext(ctx, logr.Discard()), source, &metav1.PartialObjectMetadata{},
		func(all cache.Store) (bool, error) { // what has changed before the watch began is seen as well
			for _, o := range all.List() {
				if o, ok := o.(*metav1.PartialObjectMetadata); ok {
					listed[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = o.ResourceVersion
				}
			}
			s.tell(ctx, of, "")
			return false, nil
		},
		func(e watch.Event) (bool, error) {
			o, ok := e.Object.(*metav1.PartialObjectMetadata)
			if ok && listed[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] != o.ResourceVersion {
				s.tell(ctx, of, o.Name)
			}
			return false, nil
		})
}

// discovery is how long a kind is looked for after news of what defines it: the API server serves it only some time after
// it says so, and nothing tells of that.
var discovery = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 7}

// tell wakes those whose cause has changed; name is that of the object that there is news of, empty for all.
func (s *causes) tell(ctx context.Context, of newsOf, name string) {
	for key, c := range s.concerned(of, name) {
		steps := discovery
		if name == "" || of.name != "" || of.namespace != "" {
			steps.Steps = 1
		}
		_ = wait.ExponentialBackoffWithContext(ctx, steps, func(ctx context.Context) (bool, error) { // it has not changed, then
			changed, err := c.changed(ctx, of.cluster)
			if changed && err == nil {
				s.wake(key)
			}
			return changed, err
		})
	}
}

func (s *causes) concerned(of newsOf, name string) map[types.NamespacedName]*cause {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[types.NamespacedName]*cause{}
	if w := s.watches[of]; w != nil {
		for key, c := range w.users {
			if name == "" || c.concerns(name) {
				out[key] = c
			}
		}
	}
	return out
}
