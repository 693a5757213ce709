package git

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

// world is one agent with one storage, in front of an API server that is a fake: what is tested is what the reconciler asks
// of it, and the e2e tests hold that against a real one.
type world struct {
	t      *testing.T
	client client.Client
	store  *artifact.Store
	limits Limits
	events *sourcetest.Events
	run    func(context.Context, ctrl.Request) (ctrl.Result, error)

	repositories *repositories
	waker        *reconcile.Waker
	woken        *queue
}

// queue is a controller's, of which only what is added to it is of interest.
type queue struct {
	workqueue.TypedRateLimitingInterface[ctrl.Request]
	added []ctrl.Request
}

func (q *queue) Add(r ctrl.Request) { q.added = append(q.added, r) }

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, client: sourcetest.Client(objects, &sourcev1.GitRepository{})}
	w.restart(t.TempDir())
	return w
}

// restart starts a new agent on the storage.
func (w *world) restart(dir string) {
	w.t.Helper()
	var err error
	if w.store, err = artifact.Open(artifact.Options{Dir: dir, Address: "source-controller"}); err != nil {
		w.t.Fatal(err)
	}
	git, err := NewFetcher(w.store, source.Network{}, w.limits)
	if err != nil {
		w.t.Fatal(err)
	}
	w.events = &sourcetest.Events{}
	w.waker, w.woken = &reconcile.Waker{}, &queue{}
	if err := w.waker.Start(context.Background(), w.woken); err != nil {
		w.t.Fatal(err)
	}
	options := Options{
		Waker: w.waker,
		Store: w.store, Fetcher: git, Secrets: w.client, Recorder: reconcile.NewRecorder(w.events), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Edge: sourcetest.Edge(w.client),
	}
	w.repositories = newRepositories(options)
	w.run = reconcile.NewController(w.repositories.kind(), options.Edge, api.SourceManager, options.Recorder, options.Log).Reconcile
}

func gitRepository(url string, set func(*sourcev1.GitRepositorySpec)) *sourcev1.GitRepository {
	o := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop", UID: "1", Generation: 1}}
	o.Spec = sourcev1.GitRepositorySpec{
		URL: url, Interval: metav1.Duration{Duration: time.Minute}, Timeout: &metav1.Duration{Duration: 20 * time.Second},
		Reference: &sourcev1.GitRepositoryRef{Branch: "main"},
	}
	if set != nil {
		set(&o.Spec)
	}
	return o
}

var shop = client.ObjectKey{Namespace: "demo", Name: "shop"}

func (w *world) reconcile() (*sourcev1.GitRepository, ctrl.Result) {
	w.t.Helper()
	result, err := w.run(context.Background(), ctrl.Request{NamespacedName: shop})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.get(), result
}

func (w *world) get() *sourcev1.GitRepository {
	w.t.Helper()
	var o sourcev1.GitRepository
	if err := w.client.Get(context.Background(), shop, &o); client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	return &o
}

// change updates the object as a user does.
func (w *world) change(set func(*sourcev1.GitRepository)) {
	w.t.Helper()
	o := w.get()
	set(o)
	if err := w.client.Update(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
}

// conditions lists "type=status reason", in order.
func conditions(o *sourcev1.GitRepository) []string {
	var all []string
	for _, c := range o.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	return all
}

var healthy = []string{"Ready=True Succeeded", "ArtifactInStorage=True Succeeded"}

// TestStatusIsFluxs holds the status against the one in Flux's recording of the same repository.
func TestStatusIsFluxs(t *testing.T) {
	r := golden(t)
	r.git("reset", "-q", "--hard", "v1.0.0")
	server := serveHTTP(t, r, nil)
	charts := "/charts\n"
	for name, tt := range map[string]struct {
		set  func(*sourcev1.GitRepositorySpec)
		want sourcev1.GitRepositoryStatus
	}{
		"branch": {nil, fluxStatus("main@sha1:", "sha256:f74a01a714810b54a272d1a97eb1381888bd5af3f214b58ed66846e87901be11", 1614, nil)},
		"semver": {func(s *sourcev1.GitRepositorySpec) {
			s.Reference = &sourcev1.GitRepositoryRef{SemVer: ">=1.0.0"}
			s.Ignore = &charts
		}, fluxStatus("v1.0.0@sha1:", "sha256:1a2880202bba408133a03b4fa62fc8b0257ffb402ae47c3944963e3c2c434531", 760, &charts)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, gitRepository(server.url, tt.set))
			o, result := w.reconcile()
			times := cmpopts.IgnoreTypes(metav1.Time{})
			if diff := cmp.Diff(tt.want, o.Status, times); diff != "" {
				t.Errorf("status (-flux +ours):\n%s", diff)
			}
			a := o.Status.Artifact
			want := []string{"Normal NewArtifact stored artifact for commit 'first: shop and web' map[source.toolkit.fluxcd.io/digest:" +
				a.Digest + " source.toolkit.fluxcd.io/revision:" + a.Revision + "]"}
			if diff := cmp.Diff(want, w.events.Take()); diff != "" {
				t.Errorf("events:\n%s", diff)
			}
			if result.RequeueAfter != time.Minute {
				t.Errorf("comes back after %v", result.RequeueAfter)
			}
			again, _ := w.reconcile()
			if again.ResourceVersion != o.ResourceVersion || len(w.events.Take()) > 0 {
				t.Error("a run in which nothing changed wrote a status or sent an event")
			}
		})
	}
}

func fluxStatus(prefix, digest string, size int64, ignore *string) sourcev1.GitRepositoryStatus {
	const sha = "f12aaebd0ed930b86b96ed6583add2ad249033ae"
	message := fmt.Sprintf("stored artifact for revision '%s%s'", prefix, sha)
	return sourcev1.GitRepositoryStatus{
		ObservedGeneration: 1, ObservedIgnore: ignore,
		Artifact: &meta.Artifact{
			Digest: digest, Size: &size, Revision: prefix + sha,
			Path: "gitrepository/demo/shop/" + sha + ".tar.gz", URL: "http://source-controller/gitrepository/demo/shop/" + sha + ".tar.gz",
		},
		Conditions: []metav1.Condition{
			{Type: "Ready", Status: "True", Reason: "Succeeded", Message: message, ObservedGeneration: 1},
			{Type: "ArtifactInStorage", Status: "True", Reason: "Succeeded", Message: message, ObservedGeneration: 1},
		},
	}
}

func TestF25_TheOldArtifactStaysWhileTheServerIsDown(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	server := serveHTTP(t, r, nil)
	w := newWorld(t, gitRepository(server.url, nil))
	before, _ := w.reconcile()
	w.events.Take()
	r.git("branch", "-m", "main", "away")

	o, result := w.reconcile()
	want := []string{"Ready=False GitOperationFailed", "Reconciling=True ProgressingWithRetry", "FetchFailed=True GitOperationFailed", "ArtifactInStorage=True Succeeded"}
	if diff := cmp.Diff(want, conditions(o), cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("conditions:\n%s", diff)
	}
	if diff := cmp.Diff(before.Status.Artifact, o.Status.Artifact); diff != "" {
		t.Errorf("artifact:\n%s", diff)
	}
	if !w.holds(o) {
		t.Error("the artifact is no longer served")
	}
	if result.RequeueAfter != time.Second {
		t.Errorf("comes back after %v", result.RequeueAfter)
	}
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Warning GitOperationFailed ") {
		t.Errorf("events are %q", events)
	}
	if w.reconcile(); len(w.events.Take()) > 0 {
		t.Error("the same failure was told twice")
	}

	r.git("branch", "-m", "away", "main")
	o, _ = w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" {
		t.Errorf("conditions after recovery:\n%s", diff)
	}
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal Succeeded stored artifact for revision 'main@sha1:") {
		t.Errorf("events are %q", events)
	}
}

func TestF32_LostStorageIsFetchedAgainQuietly(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	before, _ := w.reconcile()
	w.restart(t.TempDir())
	o, _ := w.reconcile()
	if !w.holds(o) || o.Status.Artifact.Digest != before.Status.Artifact.Digest {
		t.Errorf("artifact is %+v", o.Status.Artifact)
	}
	if events := w.events.Take(); len(events) > 0 {
		t.Errorf("events are %q", events)
	}
	// And while it cannot be fetched again, those who use it are told that there is one, and that it is not there.
	r.git("branch", "-m", "main", "away")
	w.restart(t.TempDir())
	lost, _ := w.reconcile()
	if diff := cmp.Diff(o.Status.Artifact, lost.Status.Artifact); diff != "" || reconcile.Condition(lost, sourcev1.ArtifactInStorageCondition) != nil {
		t.Errorf("conditions are %v, the artifact has changed:\n%s", conditions(lost), diff)
	}
	r.git("branch", "-m", "away", "main")
	if o, _ = w.reconcile(); !w.holds(o) || !cmp.Equal(healthy, conditions(o)) {
		t.Errorf("after the trouble: %v", conditions(o))
	}
}

// TestF32_WhatIsIncludedIsWaitedFor loses the storage of an object that includes another one, and looks at it first.
func TestF32_WhatIsIncludedIsWaitedFor(t *testing.T) {
	r, lib := newRepo(t), newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	lib.commit("l", map[string]string{"base": "1"})
	include := func(s *sourcev1.GitRepositorySpec) {
		s.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: meta.LocalObjectReference{Name: "lib"}}}
	}
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, include))
	w.other("lib", serveHTTP(t, lib, nil).url, nil)
	before, _ := w.reconcile()
	if !cmp.Equal(healthy, conditions(before)) {
		t.Fatal(conditions(before))
	}
	w.restart(t.TempDir())
	waits, result := w.reconcile()
	if diff := cmp.Diff(before, waits); diff != "" || result.RequeueAfter == 0 {
		t.Errorf("comes back after %v; it has changed:\n%s", result.RequeueAfter, diff)
	}
	libKey := client.ObjectKey{Namespace: "demo", Name: "lib"}
	if want := []ctrl.Request{{NamespacedName: libKey}}; !cmp.Equal(want, w.woken.added) {
		t.Errorf("woken: %v", w.woken.added)
	}
	w.again("lib")
	if want := []ctrl.Request{{NamespacedName: libKey}, {NamespacedName: shop}}; !cmp.Equal(want, w.woken.added) {
		t.Errorf("woken by the artifact's return: %v", w.woken.added)
	}
	after, _ := w.reconcile()
	if diff := cmp.Diff(before.Status.Artifact, after.Status.Artifact, cmpopts.IgnoreTypes(metav1.Time{})); diff != "" || !w.holds(after) {
		t.Errorf("the artifact has changed:\n%s", diff)
	}
	// One that has never been Ready says what it lacks.
	w.restart(t.TempDir())
	if o := w.other("new", serveHTTP(t, r, nil).url, include); !slices.Contains(conditions(o), "IncludeUnavailable=True NoArtifact") {
		t.Errorf("conditions are %v", conditions(o))
	}
}

func TestIgnoreChangesTheArtifactOfTheSameRevision(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"a": "1", "b": "2", "c/d.md": "3", ".sourceignore": "*.md\n", "c/.sourceignore": "/x\n", "c/x": "4", "x": "5"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	before, _ := w.reconcile()
	if got := w.files(before); !cmp.Equal(got, []string{".sourceignore", "a", "b", "c/.sourceignore", "x"}) {
		t.Errorf("files are %v", got)
	}
	ignore := "/b\n!*.md\n"
	w.change(func(o *sourcev1.GitRepository) { o.Spec.Ignore = &ignore; o.Generation = 2 })
	o, _ := w.reconcile()
	if o.Status.Artifact.Revision != before.Status.Artifact.Revision || o.Status.Artifact.Digest == before.Status.Artifact.Digest {
		t.Errorf("artifact was %+v and is %+v", before.Status.Artifact, o.Status.Artifact)
	}
	if got := w.files(o); !cmp.Equal(got, []string{".sourceignore", "a", "c/.sourceignore", "c/d.md", "x"}) {
		t.Errorf("files are %v", got)
	}
	if o.Status.ObservedIgnore == nil || *o.Status.ObservedIgnore != ignore || o.Status.ObservedGeneration != 2 {
		t.Errorf("status is %+v", o.Status)
	}
}

func TestDefaultIgnoreAppliesOnlyAlone(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"a": "1", "b.png": "2", ".github/x": "3", ".gitignore": "none\n"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	o, _ := w.reconcile()
	if got := w.files(o); !cmp.Equal(got, []string{"a"}) {
		t.Errorf("files are %v", got)
	}
	ignore := "/nothing\n"
	w.change(func(o *sourcev1.GitRepository) { o.Spec.Ignore = &ignore })
	o, _ = w.reconcile()
	if got := w.files(o); !cmp.Equal(got, []string{".github/x", "a", "b.png"}) {
		t.Errorf("files are %v", got)
	}
}

func (w *world) holds(o *sourcev1.GitRepository) bool {
	return w.store.Holds(inStore(o.Namespace, o.Name), o.Status.Artifact)
}

func (w *world) files(o *sourcev1.GitRepository) []string {
	w.t.Helper()
	s, release, err := w.store.Acquire(inStore(o.Namespace, o.Name), o.Status.Artifact.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	defer release()
	var names []string
	for name := range s.Files() {
		names = append(names, name)
	}
	return sorted(names)
}

func TestReasons(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	url := serveHTTP(t, r, nil).url
	secret := func(data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "auth"}, StringData: data}
	}
	withSecret := func(s *sourcev1.GitRepositorySpec) { s.SecretRef = &meta.LocalObjectReference{Name: "auth"} }
	for name, tt := range map[string]struct {
		url    string
		secret *corev1.Secret
		set    func(*sourcev1.GitRepositorySpec)
		reason string
	}{
		"no Secret":        {url, nil, withSecret, "AuthenticationFailed"},
		"half a Secret":    {url, secret(map[string]string{"username": "x"}), withSecret, "AuthenticationFailed"},
		"GitHub App":       {url, secret(map[string]string{"githubAppID": "1"}), withSecret, "InvalidProviderConfiguration"},
		"no server":        {"http://127.0.0.1:1/x", nil, nil, "GitOperationFailed"},
		"no repository":    {strings.Replace(url, "repo.git", "other.git", 1), nil, nil, "GitOperationFailed"},
		"no URL":           {"http://", nil, nil, "URLInvalid"},
		"empty repository": {serveHTTP(t, newRepo(t), nil).url, nil, nil, "EmptyGitRepository"},
		"no version range": {url, nil, func(s *sourcev1.GitRepositorySpec) { s.Reference.SemVer = "x.y.z.w" }, "GitOperationFailed"},
	} {
		w := newWorld(t, gitRepository(tt.url, tt.set))
		if tt.secret != nil {
			tt.secret.Data = map[string][]byte{}
			for k, v := range tt.secret.StringData {
				tt.secret.Data[k] = []byte(v)
			}
			if err := w.client.Create(context.Background(), tt.secret); err != nil {
				t.Fatal(err)
			}
		}
		o, _ := w.reconcile()
		for _, kind := range []string{meta.ReadyCondition, sourcev1.FetchFailedCondition} {
			if c := reconcile.Condition(o, kind); c == nil || c.Reason != tt.reason {
				t.Errorf("%s: condition %s is %+v", name, kind, c)
			}
		}
	}
}

func TestRequestedAtIsHandled(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	w.reconcile()
	r.commit(strings.Repeat("ü", 60)+"\n\nbody", map[string]string{"n": "2"})
	w.events.Take()
	w.change(func(o *sourcev1.GitRepository) {
		o.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"}
	})
	o, _ := w.reconcile()
	if o.Status.LastHandledReconcileAt != "now" {
		t.Errorf("handled %q", o.Status.LastHandledReconcileAt)
	}
	if events := w.events.Take(); len(events) != 1 || !strings.Contains(events[0], "commit '"+strings.Repeat("ü", 50)+"...'") {
		t.Errorf("events are %q", events)
	}
}

func TestSuspendedIsLeftAloneAndStillServed(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	w.reconcile()
	r.commit("two", map[string]string{"n": "2"})
	w.change(func(o *sourcev1.GitRepository) { o.Spec.Suspend = true })
	before := w.get()
	if o, _ := w.reconcile(); o.ResourceVersion != before.ResourceVersion || !w.holds(o) {
		t.Errorf("status is %+v", o.Status)
	}
}

func TestDeletion(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	for name, finalizers := range map[string][]string{"with Flux's finalizer": {api.Finalizer}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			object := gitRepository(serveHTTP(t, r, nil).url, nil)
			object.Finalizers = finalizers
			w := newWorld(t, object)
			o, _ := w.reconcile()
			a := o.Status.Artifact
			if diff := cmp.Diff(finalizers, o.Finalizers); diff != "" {
				t.Errorf("finalizers were changed:\n%s", diff)
			}
			if err := w.client.Delete(context.Background(), o); err != nil {
				t.Fatal(err)
			}
			w.reconcile()
			w.reconcile()
			if w.get().Name != "" {
				t.Error("the object is still there")
			}
			if w.store.Holds(inStore(o.Namespace, o.Name), a) || len(w.store.Objects("GitRepository")) > 0 {
				t.Error("its artifacts are still there")
			}
		})
	}
}

func TestF31_DiskTroubleIsReportedAndLeavesTheOldArtifact(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	dir := t.TempDir()
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	w.restart(dir)
	before, _ := w.reconcile()
	r.commit("two", map[string]string{"n": "2"})
	// A file where the directory of the artifacts was to be made anew.
	objectDir := filepath.Join(dir, "gitrepository", "demo", "shop")
	if err := os.Rename(objectDir, objectDir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(objectDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o, _ := w.reconcile()
	want := []string{"ArtifactOutdated=True NewRevision", "Ready=False ArchiveOperationFailed", "Reconciling=True ProgressingWithRetry", "StorageOperationFailed=True ArchiveOperationFailed"}
	if diff := cmp.Diff(want, sorted(conditions(o))); diff != "" {
		t.Errorf("conditions:\n%s", diff)
	}
	if err := os.Remove(objectDir); err != nil {
		t.Fatal(err)
	}
	o, _ = w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" || o.Status.Artifact.Revision == before.Status.Artifact.Revision {
		t.Errorf("after the trouble: %+v\n%s", o.Status.Artifact, diff)
	}
}

// TestF28_AMovedTagIsTold: in the first word of an event, once, whatever the spec named the tag by. What comes with a branch,
// another tag or another ref is no move.
func TestF28_AMovedTagIsTold(t *testing.T) {
	for name, tt := range map[string]struct {
		ref  sourcev1.GitRepositoryRef
		told bool
	}{
		"tag":           {sourcev1.GitRepositoryRef{Tag: "v1.0.0"}, true},
		"version":       {sourcev1.GitRepositoryRef{SemVer: "1.x"}, true},
		"name of a tag": {sourcev1.GitRepositoryRef{Name: "refs/tags/v1.0.0"}, true},
		"branch":        {sourcev1.GitRepositoryRef{Branch: "main"}, false},
		"name":          {sourcev1.GitRepositoryRef{Name: "refs/heads/main"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			first := r.commit("one", map[string]string{"n": "1"})
			r.git("tag", "v1.0.0")
			w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, func(s *sourcev1.GitRepositorySpec) { s.Reference = &tt.ref }))
			w.reconcile()
			w.events.Take()
			second := r.commit("two", map[string]string{"n": "2"})
			r.git("tag", "-f", "v1.0.0")
			if o, _ := w.reconcile(); !strings.HasSuffix(o.Status.Artifact.Revision, second) {
				t.Fatalf("the artifact is of %s", o.Status.Artifact.Revision)
			}
			said := func() (moved []string) {
				return slices.DeleteFunc(w.events.Take(), func(e string) bool { return !strings.HasPrefix(e, "Normal TagMoved ") })
			}
			got := said()
			if (len(got) == 1) != tt.told || tt.told && !strings.Contains(got[0], "tag 'v1.0.0' was moved from commit "+first+" to "+second) {
				t.Errorf("events are %q", got)
			}
			if w.reconcile(); len(said()) > 0 {
				t.Error("told twice")
			}
		})
	}
	t.Run("pinned", func(t *testing.T) {
		r := newRepo(t)
		first := r.commit("one", map[string]string{"n": "1"})
		r.git("tag", "v1.0.0")
		w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, func(s *sourcev1.GitRepositorySpec) {
			s.Reference = &sourcev1.GitRepositoryRef{Tag: "v1.0.0", Commit: first}
		}))
		w.reconcile()
		r.commit("two", map[string]string{"n": "2"})
		r.git("tag", "-f", "v1.0.0")
		if o, _ := w.reconcile(); !strings.HasSuffix(o.Status.Artifact.Revision, first) {
			t.Errorf("the artifact is of %s", o.Status.Artifact.Revision)
		}
	})
	t.Run("another tag", func(t *testing.T) {
		r := newRepo(t)
		r.commit("one", map[string]string{"n": "1"})
		r.git("tag", "v1.0.0")
		w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, func(s *sourcev1.GitRepositorySpec) { s.Reference = &sourcev1.GitRepositoryRef{SemVer: "1.x"} }))
		w.reconcile()
		w.events.Take()
		r.commit("two", map[string]string{"n": "2"})
		r.git("tag", "v1.1.0")
		w.reconcile()
		if got := w.events.Take(); len(got) != 1 || !strings.HasPrefix(got[0], "Normal NewArtifact ") {
			t.Errorf("events are %q", got)
		}
	})
}

// TestF36_ARequestDuringARunIsNotLost: the run that was under way when it came does not count as its answer.
func TestF36_ARequestDuringARunIsNotLost(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	var during func()
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
			next.ServeHTTP(res, req)
			if during != nil {
				do := during
				during = nil
				do()
			}
		})
	})
	w := newWorld(t, gitRepository(server.url, nil))
	ask := func(token string) {
		w.change(func(o *sourcev1.GitRepository) {
			o.Annotations = map[string]string{meta.ReconcileRequestAnnotation: token}
		})
	}
	ask("first")
	second := ""
	during = func() { // the refs have been listed: this commit is not among them
		second = r.commit("two", map[string]string{"n": "2"})
		ask("second")
	}
	if o, _ := w.reconcile(); o.Status.LastHandledReconcileAt != "first" || strings.HasSuffix(o.Status.Artifact.Revision, second) {
		t.Fatalf("handled %q with %s", o.Status.LastHandledReconcileAt, o.Status.Artifact.Revision)
	}
	if o, _ := w.reconcile(); o.Status.LastHandledReconcileAt != "second" || !strings.HasSuffix(o.Status.Artifact.Revision, second) {
		t.Errorf("handled %q with %s", o.Status.LastHandledReconcileAt, o.Status.Artifact.Revision)
	}
}

// TestF29_ARepositoryOverTheLimits: it ends in an ordinary condition, what was fetched before is served on, and nothing stays
// on the disk, however often it is tried again.
func TestF29_ARepositoryOverTheLimits(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"n": "1"})
	dir := t.TempDir()
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, nil))
	w.limits = small
	w.restart(dir)
	before, _ := w.reconcile()
	used := func() (total int64) {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return total
	}
	begin := used()
	noise := make([]byte, 2*small.PackBytes)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	r.commit("large", map[string]string{"large": string(noise)})
	for range 3 {
		o, _ := w.reconcile()
		c := reconcile.Condition(o, sourcev1.FetchFailedCondition)
		if c == nil || c.Reason != sourcev1.GitOperationFailedReason || !strings.Contains(c.Message, "over the limit") {
			t.Fatalf("conditions are %v: %+v", conditions(o), c)
		}
		if diff := cmp.Diff(before.Status.Artifact, o.Status.Artifact); diff != "" || !w.holds(o) {
			t.Errorf("the artifact has changed:\n%s", diff)
		}
		if now := used(); now > begin+(100<<10) {
			t.Errorf("%d bytes are on the disk, %d before", now, begin)
		}
	}
}
