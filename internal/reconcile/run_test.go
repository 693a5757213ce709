package reconcile

import (
	"context"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
)

// TestSaveAfterAProgressReport: what a step saves after it has been told of stays, in the status and in what the run goes on with.
func TestSaveAfterAProgressReport(t *testing.T) {
	obj := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web"}}
	c := fake.NewClientBuilder().WithScheme(api.NewScheme()).WithObjects(obj).WithStatusSubresource(obj).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
		t.Fatal(err)
	}
	w := newWriter(c, api.KustomizationKind, func() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} }, "test")
	run := newRun(obj, w, time.Nanosecond)
	stop := run.reportLater(t.Context(), "Working")
	for told := false; !told; {
		run.mu.Lock()
		told = run.reported != nil
		run.mu.Unlock()
	}
	save := func(k *kustomizev1.Kustomization) {
		SetCondition(k, "Released", metav1.ConditionTrue, "Done", "it is released")
	}
	if err := run.Save(t.Context(), save); err != nil {
		t.Fatal(err)
	}
	stop()
	if c := Condition(run.Obj, "Released"); c == nil {
		t.Error("the run goes on without what was saved")
	}
	if c := Condition(run.Obj, meta.ReconcilingCondition); c == nil || c.Message != "Working" {
		t.Errorf("the run goes on without what was told: %v", c)
	}
	if err := run.flush(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	live := &kustomizev1.Kustomization{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), live); err != nil {
		t.Fatal(err)
	}
	if Condition(live, "Released") == nil {
		t.Error("what was saved is gone from the status")
	}
}
