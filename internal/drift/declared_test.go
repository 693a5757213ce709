package drift

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

func many(t testing.TB, n int) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for i := range n {
		objects = append(objects, parse(t, fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web-%d, namespace: demo-%d, labels: {%s}},
			spec: {replicas: %d, template: {spec: {containers: [{name: app, image: "registry.example.com/shop/web:%d", ports: [{containerPort: 80, name: http}], resources: {requests: {cpu: 10m}}}]}}}}`,
			(i*7919)%n, i%7, ownerLabels, i%5, i)))
	}
	return objects
}

// Every object comes back as it was put in, from whichever block, and together they take little room.
func TestDeclared(t *testing.T) {
	const n = 1000
	objects := many(t, n)
	also := parse(t, "{apiVersion: v1, kind: Secret, stringData: {x: hunter2}}")
	d, err := pack(objects, also)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.blocks) < 3 {
		t.Errorf("%d blocks: the test looks at nothing", len(d.blocks))
	}
	for _, want := range objects {
		i, ok := d.find(object.RefOf(want).Key())
		if !ok {
			t.Fatalf("%s is not found", object.RefOf(want))
		}
		got, err := d.load(i)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
	if _, ok := d.find(object.Key{Kind: "Deployment", Namespace: "demo-1", Name: "nobody"}); ok {
		t.Error("what is not there is found")
	}
	if all, err := d.all(); err != nil || len(all) != n {
		t.Errorf("%d objects, %v", len(all), err)
	}
	if diff := cmp.Diff(also, d.hidden()); diff != "" {
		t.Errorf("what must not be told (-want +got):\n%s", diff)
	}
	if per := d.size() / n; per > 100 {
		t.Errorf("%d bytes an object", per)
	}
	t.Logf("%d bytes an object", d.size()/n)
}

func TestDeclaredWithoutRoom(t *testing.T) {
	d, err := pack(many(t, 3), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.blocks = nil
	if u, err := d.load(1); u != nil || err != nil {
		t.Errorf("%v, %v", u, err)
	}
	if d.hidden() != nil {
		t.Error("something is hidden")
	}
}
