package notify

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
)

// maxTurns is how many objects are known to fail, each counted for each Alert that was told so.
const maxTurns = 16384

// about is an object as an Alert has been told about it.
type about struct {
	alert  types.UID
	object string
}

// turns knows which objects fail, for the Alerts that want to hear only when that changes. It is used by one goroutine.
type turns struct {
	// failing are the objects whose failure an Alert was told; false if it was told that this is over and before has them.
	failing map[about]bool
	// before are those that failed when this process began: their recovery is news.
	before map[string]bool
}

func newTurns() *turns { return &turns{failing: map[about]bool{}, before: map[string]bool{}} }

// identity names an object whatever the version it is read in.
func identity(group, kind, namespace, name string) string {
	return group + "/" + kind + "/" + namespace + "/" + name
}

func (m *Message) identity() string {
	o := m.InvolvedObject
	return identity(schema.FromAPIVersionAndKind(o.APIVersion, o.Kind).Group, o.Kind, o.Namespace, o.Name)
}

// turn says whether a message is one of a change, and makes one of a recovery say so.
func (t *turns) turn(r *rule, m *Message) bool {
	key := about{r.alert.UID, m.identity()}
	if m.failed() {
		if t.failing[key] || !r.lists(m.Message) {
			return false
		}
		if len(t.failing) >= maxTurns {
			t.failing = map[about]bool{} // that of some a second failure is told is better than to remember without end
		}
		t.failing[key] = true
		return true
	}
	if m.underway() {
		return false // it has changed nothing yet
	}
	was, told := t.failing[key]
	if t.before[key.object] {
		was = was || !told
		t.failing[key] = false // this Alert knows that it is over
	} else {
		delete(t.failing, key)
	}
	if !was {
		return false
	}
	m.Message = "Recovered: " + m.Message
	// What ends an incident is for everybody who was told of it, and not only for who keeps a status.
	delete(m.Metadata, commitStatusKey)
	return true
}

// remember looks for what fails already.
func (d *Dispatcher) remember(ctx context.Context) {
	var wanted bool
	kinds := map[schema.GroupVersionKind]bool{}
	for _, r := range d.current() {
		if r.invalid != nil || !r.transitions {
			continue
		}
		wanted = true
		for _, s := range r.alert.Spec.EventSources {
			if gvk, ok := kindNamed(s.Kind); ok {
				kinds[gvk] = true
			}
		}
	}
	if !wanted {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for gvk := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := d.options.Objects(gvk).List(ctx, list); err != nil {
			d.options.Log.Info("looking for what fails already; recoveries of these will not be told", "kind", gvk.Kind, "error", err)
			continue
		}
		for i := range list.Items {
			if u := &list.Items[i]; notReady(u) {
				d.turns.before[identity(gvk.Group, gvk.Kind, u.GetNamespace(), u.GetName())] = true
			}
		}
	}
}

// kindNamed is the kind of ours of that name.
func kindNamed(name string) (schema.GroupVersionKind, bool) {
	for _, gvk := range []schema.GroupVersionKind{
		api.GitRepositoryKind, api.OCIRepositoryKind, api.HelmRepositoryKind, api.HelmChartKind, api.BucketKind, api.ExternalArtifactKind,
		api.KustomizationKind, api.HelmReleaseKind,
	} {
		if gvk.Kind == name {
			return gvk, true
		}
	}
	return schema.GroupVersionKind{}, false
}

func notReady(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" {
			return c["status"] == "False"
		}
	}
	return false
}
