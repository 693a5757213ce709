package e2e_test

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	helmstorage "helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// drawer is a namespace in which releases are stored: by us, by Helm's own driver, and by whoever has a kubectl.
type drawer struct {
	ours    storage.Namespace
	helm    *helmstorage.Storage
	secrets typedv1.SecretInterface
}

func newDrawer(t *testing.T) *drawer {
	t.Helper()
	cluster := testenv.Shared(t)
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	namespace := cluster.Namespace(t, "helm")
	direct, err := client.New(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	secrets := clientset.CoreV1().Secrets(namespace)
	return &drawer{
		ours:    storage.Namespace{Client: direct, Name: namespace},
		helm:    helmstorage.Init(driver.NewSecrets(secrets)),
		secrets: secrets,
	}
}

// open returns the storage of the release web as an action has it.
func (d *drawer) open(t *testing.T) (*storage.Revisions, *helmstorage.Storage) {
	t.Helper()
	r, err := storage.Observe(t.Context(), d.ours, "web")
	if err != nil {
		t.Fatal(err)
	}
	return r, helmstorage.Init(r.Driver(t.Context(), storage.Operation{Method: storage.ServerSide}))
}

func webRelease(version int, status release.Status) *release.Release {
	now := helmtime.Now()
	return &release.Release{
		Name:      "web",
		Namespace: "shop",
		Version:   version,
		Info:      &release.Info{FirstDeployed: now, LastDeployed: now, Status: status},
		Chart: &chart.Chart{
			Metadata:  &chart.Metadata{Name: "web", Version: "1.0.0", APIVersion: "v2"},
			Templates: []*chart.File{{Name: "templates/web.yaml", Data: []byte("kind: ConfigMap\n")}},
		},
		Manifest: "kind: ConfigMap\n",
	}
}

// incompressible returns a text of about n bytes that a storage Secret needs as many for.
func incompressible(n int) string {
	r := rand.New(rand.NewPCG(1, 1))
	raw := make([]byte, n*3/4)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// Helm's own driver reads what we store on a real API server, and goes on with it, and we with what it has stored.
func TestHelmStorageSharedWithHelm(t *testing.T) {
	d := newDrawer(t)
	_, ours := d.open(t)
	if err := ours.Create(webRelease(1, release.StatusDeployed)); err != nil {
		t.Fatal(err)
	}
	theirs, err := d.helm.Deployed("web")
	if err != nil {
		t.Fatal(err)
	}
	theirs.SetStatus(release.StatusSuperseded, "by Helm")
	if err := errors.Join(d.helm.Update(theirs), d.helm.Create(webRelease(2, release.StatusDeployed))); err != nil {
		t.Fatal(err)
	}
	r, ours := d.open(t)
	last, err := r.Last(t.Context())
	if err != nil || last.Version != 2 || last.Method != storage.ClientSide {
		t.Fatalf("last is %v, %v", last, err)
	}
	first, err := ours.Get("web", 1)
	if err != nil || first.Info.Description != "by Helm" || first.Info.Status != release.StatusSuperseded {
		t.Fatalf("first is %v, %v", first, err)
	}
	if _, err := ours.Delete("web", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.helm.Get("web", 1); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("Helm still finds revision 1: %v", err)
	}
	managers := d.managers(t, storage.Key("web", 2))
	last.SetStatus(release.StatusFailed, "")
	if err := ours.Update(last.Release); err != nil {
		t.Fatal(err)
	}
	if got := d.managers(t, storage.Key("web", 2)); !slices.Contains(got, "helm-controller") {
		t.Errorf("fields are managed by %v, before by %v", got, managers)
	}
}

func (d *drawer) managers(t *testing.T, name string) []string {
	t.Helper()
	secret, err := d.secrets.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var managers []string
	for _, entry := range secret.ManagedFields {
		managers = append(managers, entry.Manager)
	}
	return managers
}

// The largest release that we store is taken by the API server, and what we refuse is refused by it, too, if later.
func TestF15_HelmStorageLimit(t *testing.T) {
	d := newDrawer(t)
	r, ours := d.open(t)
	rel := webRelease(1, release.StatusPendingInstall)
	rel.Manifest = incompressible(720 << 10) // a quarter more as gzip of base64, a third more as base64 of that
	if err := ours.Create(rel); err != nil {
		t.Fatal(err)
	}
	secret, err := d.secrets.Get(t.Context(), storage.Key("web", 1), metav1.GetOptions{})
	if err != nil || len(secret.Data["release"]) < 700<<10 {
		t.Fatalf("stored %d bytes, %v", len(secret.Data["release"]), err)
	}
	rel = webRelease(2, release.StatusPendingUpgrade)
	rel.Manifest = incompressible(1100 << 10)
	var tooLarge *storage.TooLargeError
	if _, err := r.Driver(t.Context(), storage.Operation{}).Check(rel); !errors.As(err, &tooLarge) {
		t.Errorf("%v, want a TooLargeError", err)
	}
	if err := d.helm.Create(rel); !apierrors.IsInvalid(errors.Unwrap(errors.Unwrap(err))) && !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("Helm was told %v, want that it is too large", err)
	}
}

// More revisions than one request asks for: all are known, newest first.
func TestHelmStorageLongHistory(t *testing.T) {
	d := newDrawer(t)
	const revisions = 40
	_, ours := d.open(t)
	for version := 1; version <= revisions; version++ {
		if err := ours.Create(webRelease(version, release.StatusSuperseded)); err != nil {
			t.Fatal(err)
		}
	}
	r, ours := d.open(t)
	if headers := r.Headers(); len(headers) != revisions || headers[0].Version != revisions || headers[revisions-1].Version != 1 {
		t.Errorf("%v", headers)
	}
	ours.MaxHistory = 5
	if err := ours.Create(webRelease(revisions+1, release.StatusDeployed)); err != nil {
		t.Fatal(err)
	}
	history, err := d.helm.History("web")
	if err != nil || len(history) != 5 {
		t.Errorf("%d revisions are left, %v", len(history), err)
	}
}

// Two that work on the same release: the second is told, and changes nothing.
func TestF13_HelmStorageConflict(t *testing.T) {
	d := newDrawer(t)
	_, first := d.open(t)
	if err := first.Create(webRelease(1, release.StatusPendingInstall)); err != nil {
		t.Fatal(err)
	}
	_, second := d.open(t)
	rel := webRelease(1, release.StatusDeployed)
	if err := first.Update(rel); err != nil {
		t.Fatal(err)
	}
	var conflict *storage.ConflictError
	if err := second.Update(webRelease(1, release.StatusFailed)); !errors.As(err, &conflict) {
		t.Errorf("update: %v, want a ConflictError", err)
	}
	if _, err := second.Delete("web", 1); !errors.As(err, &conflict) {
		t.Errorf("delete: %v, want a ConflictError", err)
	}
	if err := second.Create(webRelease(1, release.StatusPendingInstall)); !errors.Is(err, driver.ErrReleaseExists) {
		t.Errorf("create: %v, want ErrReleaseExists", err)
	}
	if got, err := d.helm.Last("web"); err != nil || got.Info.Status != release.StatusDeployed {
		t.Errorf("%v, %v", got, err)
	}
}

// What somebody deletes or breaks with kubectl while a release is worked on.
func TestF16_HelmStorageByHand(t *testing.T) {
	d := newDrawer(t)
	_, ours := d.open(t)
	if err := errors.Join(ours.Create(webRelease(1, release.StatusSuperseded)), ours.Create(webRelease(2, release.StatusPendingUpgrade))); err != nil {
		t.Fatal(err)
	}
	if err := d.secrets.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "owner=helm"}); err != nil {
		t.Fatal(err)
	}
	if err := ours.Update(webRelease(2, release.StatusDeployed)); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Delete("web", 1); err != nil {
		t.Error(err)
	}
	secret, err := d.secrets.Get(t.Context(), storage.Key("web", 2), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data = map[string][]byte{"release": []byte("edited")}
	if _, err := d.secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, ours := d.open(t)
	if _, err := r.Last(t.Context()); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("%v, want ErrReleaseNotFound", err)
	}
	if got := r.Corrupt(); !slices.Equal(got, []string{storage.Key("web", 2)}) {
		t.Errorf("corrupt: %v", got)
	}
	if err := ours.Create(webRelease(2, release.StatusDeployed)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.helm.Last("web"); err != nil || got.Version != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if secret, err = d.secrets.Get(t.Context(), storage.Key("web", 2), metav1.GetOptions{}); err != nil || secret.Type != corev1.SecretType("helm.sh/release.v1") {
		t.Errorf("type %v, %v", secret.Type, err)
	}
}
