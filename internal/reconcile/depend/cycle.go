package depend

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// Graph is who depends on whom.
type Graph map[Ref][]Ref

// dependants are the kinds that depend on others; sources do not.
var dependants = []schema.GroupVersionKind{api.KustomizationKind, api.HelmReleaseKind}

// ReadGraph reads the graph from the cache; served are the kinds that it holds.
func ReadGraph(ctx context.Context, cache client.Reader, served []schema.GroupVersionKind) (Graph, error) {
	graph := Graph{}
	for _, kind := range dependants {
		if !slices.Contains(served, kind) {
			continue
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil { // they are only read
			return nil, fmt.Errorf("listing %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if on := Of(&list.Items[i]); len(on) > 0 {
				graph[RefOf(&list.Items[i])] = on
			}
		}
	}
	return graph, nil
}

// Cycle is a way that leads from an object over what it depends on back to itself.
type Cycle []Ref

// Cycle returns the shortest cycle that the object is in, from it on, or nil. It ends, whatever the graph is, after one look at
// each edge.
func (g Graph) Cycle(of Ref) Cycle {
	from := map[Ref]Ref{} // by which way each object was found first
	for queue := []Ref{of}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, on := range g[at] {
			if on == of {
				return way(from, of, at)
			}
			if _, seen := from[on]; !seen {
				from[on] = at
				queue = append(queue, on)
			}
		}
	}
	return nil
}

// way goes back from the last object of a cycle to the first.
func way(from map[Ref]Ref, first, last Ref) Cycle {
	cycle := Cycle{last}
	for at := last; at != first; {
		at = from[at]
		cycle = append(cycle, at)
	}
	slices.Reverse(cycle)
	return cycle
}

// maxNamed is how many objects of a cycle a message names.
const maxNamed = 20

// String names the objects: `Kustomization/ns/a → Kustomization/ns/b → Kustomization/ns/a`.
func (c Cycle) String() string {
	var names []string
	for _, ref := range c {
		names = append(names, ref.String())
	}
	if len(names) > maxNamed {
		names = append(names[:maxNamed], fmt.Sprintf("%d more", len(names)-maxNamed))
	}
	return strings.Join(append(names, c[0].String()), " → ")
}
