package storage_test

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// secrets are those of a namespace, in memory, with the resourceVersions of an API server; e2e/helm_storage_test.go
// runs against a real one. calls are what was asked for.
type secrets struct {
	items   map[string]corev1.Secret
	version int
	calls   []string
	err     error
}

func newSecrets(items ...corev1.Secret) *secrets {
	s := &secrets{items: map[string]corev1.Secret{}}
	for _, item := range items {
		s.put(&item)
	}
	return s
}

func (s *secrets) put(secret *corev1.Secret) {
	s.version++
	secret.ResourceVersion = strconv.Itoa(s.version)
	if secret.UID == "" {
		secret.UID = types.UID("uid-" + secret.ResourceVersion)
	}
	s.items[secret.Name] = *secret.DeepCopy()
}

var resource = schema.GroupResource{Resource: "secrets"}

func (s *secrets) matching(labels map[string]string) []corev1.Secret {
	var out []corev1.Secret
	for _, name := range slices.Sorted(maps.Keys(s.items)) {
		secret := s.items[name]
		match := true
		for key, value := range labels {
			match = match && secret.Labels[key] == value
		}
		if match {
			out = append(out, *secret.DeepCopy())
		}
	}
	return out
}

func (s *secrets) List(_ context.Context, labels map[string]string, limit int) ([]corev1.Secret, bool, error) {
	s.calls = append(s.calls, "list")
	list := s.matching(labels)
	return list[:min(limit, len(list))], len(list) > limit, s.err
}

func (s *secrets) Headers(_ context.Context, labels map[string]string) ([]metav1.ObjectMeta, error) {
	s.calls = append(s.calls, "headers")
	var out []metav1.ObjectMeta
	for _, secret := range s.matching(labels) {
		out = append(out, secret.ObjectMeta)
	}
	return out, s.err
}

func (s *secrets) Get(_ context.Context, name string) (*corev1.Secret, error) {
	s.calls = append(s.calls, "get "+name)
	secret, ok := s.items[name]
	if !ok {
		return nil, apierrors.NewNotFound(resource, name)
	}
	return secret.DeepCopy(), s.err
}

func (s *secrets) Create(_ context.Context, secret *corev1.Secret) error {
	s.calls = append(s.calls, "create "+secret.Name)
	if _, ok := s.items[secret.Name]; ok {
		return apierrors.NewAlreadyExists(resource, secret.Name)
	}
	if s.err == nil {
		s.put(secret)
	}
	return s.err
}

func (s *secrets) Update(_ context.Context, secret *corev1.Secret) error {
	s.calls = append(s.calls, "update "+secret.Name)
	there, ok := s.items[secret.Name]
	switch {
	case !ok:
		return apierrors.NewNotFound(resource, secret.Name)
	case there.ResourceVersion != secret.ResourceVersion:
		return apierrors.NewConflict(resource, secret.Name, nil)
	case s.err == nil:
		s.put(secret)
	}
	return s.err
}

func (s *secrets) Delete(_ context.Context, of metav1.ObjectMeta) error {
	s.calls = append(s.calls, "delete "+of.Name)
	there, ok := s.items[of.Name]
	switch {
	case !ok:
		return apierrors.NewNotFound(resource, of.Name)
	case there.ResourceVersion != of.ResourceVersion || there.UID != of.UID:
		return apierrors.NewConflict(resource, of.Name, nil)
	case s.err == nil:
		delete(s.items, of.Name)
	}
	return s.err
}

// fluxMade are the storage Secrets and histories of one state of the recording, "1" or "2".
func fluxMade(t testing.TB, state string) ([]corev1.Secret, []*v2.Snapshot) {
	t.Helper()
	var list corev1.SecretList
	readYAML(t, filepath.Join("testdata", "flux-made", state+"-helm-storage.yaml"), &list)
	var history []*v2.Snapshot
	readYAML(t, filepath.Join("testdata", "flux-made", state+"-history.yaml"), &history)
	slices.SortFunc(history, func(a, b *v2.Snapshot) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	return list.Items, history
}

func readYAML(t testing.TB, file string, to any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, to); err != nil {
		t.Fatal(err)
	}
}

func observe(t testing.TB, s *secrets, name string) *storage.Revisions {
	t.Helper()
	r, err := storage.Observe(t.Context(), s, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// made returns a release as an action would make it.
func made(name string, version int, status release.Status) *release.Release {
	at := helmtime.Date(2026, 11, 25, 3, 0, 0, version, helmtime.Now().UTC().Location())
	return &release.Release{
		Name:      name,
		Namespace: "demo",
		Version:   version,
		Info:      &release.Info{FirstDeployed: at, LastDeployed: at, Status: status, Description: "made"},
		Chart:     madeChart(),
		Config:    map[string]any{"replicas": float64(version)},
		Manifest:  "---\n# Source: web/templates/a.yaml\nkind: ConfigMap\n",
		Hooks: []*release.Hook{
			{Name: "migrate", Kind: "Job", Path: "web/templates/migrate.yaml", Manifest: "kind: Job\n", Events: []release.HookEvent{release.HookPreUpgrade}},
			{Name: "check", Kind: "Pod", Path: "web/templates/check.yaml", Manifest: "kind: Pod\n", Events: []release.HookEvent{release.HookTest}},
		},
		Labels: map[string]string{"team": "shop"},
	}
}

func madeChart() *chart.Chart {
	return &chart.Chart{
		Metadata:  &chart.Metadata{Name: "web", Version: "1.0.0", APIVersion: "v2", AppVersion: "1.0"},
		Templates: []*chart.File{{Name: "templates/a.yaml", Data: []byte("kind: {{ .Values.kind }}\n")}},
		Files:     []*chart.File{{Name: "README.md", Data: []byte("read me")}},
		Values:    map[string]any{"kind": "ConfigMap"},
	}
}
