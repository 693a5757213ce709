package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// ListFirst returns a source of objects that lists before it watches. To stream the list through the watch would take less
// memory at the server, but ends with a bookmark that comes up to a second later, and the health of new workloads and the
// start of the agent would wait for that.
func ListFirst(source cache.ListerWatcher) cache.ListerWatcher {
	return listed{source, cache.ToListerWatcherWithContext(source)}
}

// listed is a source that offers no streamed list. Its methods with a context are those of withContext.
type listed struct {
	cache.ListerWatcher
	withContext cache.ListerWatcherWithContext
}

func (l listed) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	return l.withContext.ListWithContext(ctx, options)
}

func (l listed) WatchWithContext(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
	return l.withContext.WatchWithContext(ctx, options)
}

// IsWatchListSemanticsUnSupported is how client-go asks.
func (listed) IsWatchListSemanticsUnSupported() bool { return true }
