package testenv

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// sidecar is the container that Mutate adds.
const sidecar = "injected"

// Mutate has the Deployments of a namespace changed on their way into the API server, as service meshes and registries' mirrors do:
// there is a container more, a label, and images come from elsewhere. It returns when that is so.
func Mutate(t testing.TB, cluster *Cluster, namespace string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(admit))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	client, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Apply(t.Context(), fmt.Appendf(nil, `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: %[1]s-mutator}
webhooks:
- name: mutator.e2e.cleat.dev
  admissionReviewVersions: [v1]
  sideEffects: None
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  rules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments], operations: [CREATE, UPDATE]}]
  clientConfig: {url: %[2]q, caBundle: %[3]s}
`, namespace, server.URL, base64.StdEncoding.EncodeToString(ca)), ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.Background(), namespace+"-mutator", metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	untilMutated(t, client, namespace)
}

// untilMutated tries until a Deployment comes back changed. When an API server heeds a new webhook it tells nobody.
func untilMutated(t testing.TB, client kubernetes.Interface, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	probe := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "mutator-probe"}}
	probe.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "probe"}}
	probe.Spec.Template.Labels = probe.Spec.Selector.MatchLabels
	probe.Spec.Template.Spec.Containers = append(probe.Spec.Template.Spec.Containers, corev1.Container{Name: "probe", Image: "example.com/probe:1"})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		made, err := client.AppsV1().Deployments(namespace).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && len(made.Spec.Template.Spec.Containers) == 2 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("Deployments are not changed: %v", err)
		case <-tick.C:
		}
	}
}

// admit answers an AdmissionReview about a Deployment.
func admit(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	var deployment appsv1.Deployment
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &review)
	}
	if err == nil {
		err = json.Unmarshal(review.Request.Object.Raw, &deployment)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	patch, err := json.Marshal(mutations(&deployment))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	kind := admissionv1.PatchTypeJSONPatch
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, Patch: patch, PatchType: &kind}
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // Who has gone needs no answer.
}

// mutation is an operation of a JSON patch.
type mutation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// mutations returns what is changed of a Deployment; nothing of one that it was changed of before.
func mutations(d *appsv1.Deployment) []mutation {
	const template = "/spec/template"
	changes := []mutation{}
	injected := false
	for i, c := range d.Spec.Template.Spec.Containers {
		injected = injected || c.Name == sidecar
		if !strings.HasPrefix(c.Image, "mirror.") {
			changes = append(changes, mutation{"replace", fmt.Sprintf("%s/spec/containers/%d/image", template, i), "mirror." + c.Image})
		}
	}
	if !injected {
		changes = append(changes, mutation{"add", template + "/spec/containers/-", corev1.Container{Name: sidecar, Image: "mirror.example.com/injected:1"}})
	}
	if d.Spec.Template.Labels[sidecar] == "" && d.Spec.Template.Labels != nil {
		changes = append(changes, mutation{"add", template + "/metadata/labels/" + sidecar, "true"})
	}
	return changes
}
