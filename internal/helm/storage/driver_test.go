package storage_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	helmstorage "helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/helm/values"
)

// sdk returns the storage as Helm's actions use it.
func sdk(t testing.TB, r *storage.Revisions, operation storage.Operation) *helmstorage.Storage {
	t.Helper()
	return helmstorage.Init(r.Driver(t.Context(), operation))
}

// helm3 returns the storage as the helm CLI reads it: its own driver over the same Secrets.
func helm3(t testing.TB, s *secrets) *helmstorage.Storage {
	t.Helper()
	clientset := fake.NewClientset()
	for _, secret := range s.items {
		secret.Namespace = "demo"
		if _, err := clientset.CoreV1().Secrets("demo").Create(t.Context(), &secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return helmstorage.Init(driver.NewSecrets(clientset.CoreV1().Secrets("demo")))
}

func store(t testing.TB, s *secrets, rels ...*release.Release) {
	t.Helper()
	for _, rel := range rels {
		r := observe(t, s, rel.Name)
		if err := sdk(t, r, storage.Operation{Method: storage.ServerSide}).Create(rel); err != nil {
			t.Fatal(err)
		}
	}
	s.calls = nil
}

// sameRelease compares what is stored of releases: the JSON of each, in one form.
func sameRelease(t testing.TB, want, got *release.Release) string {
	t.Helper()
	return gocmp.Diff(plain(t, want), plain(t, got))
}

func plain(t testing.TB, rel *release.Release) any {
	t.Helper()
	text, err := json.Marshal(rel)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestHelmReadsOurs: what we store, Helm's own driver reads, with its labels, and finds by its status.
func TestHelmReadsOurs(t *testing.T) {
	s := newSecrets()
	first, second := made("web", 1, release.StatusSuperseded), made("web", 2, release.StatusDeployed)
	store(t, s, first, second)
	helm := helm3(t, s)
	for _, want := range []*release.Release{first, second} {
		got, err := helm.Get("web", want.Version)
		if err != nil {
			t.Fatal(err)
		}
		if diff := sameRelease(t, want, got); diff != "" {
			t.Errorf("revision %d (-ours +Helm's):\n%s", want.Version, diff)
		}
		if got.Labels["team"] != "shop" || len(got.Labels) != 1 {
			t.Errorf("labels %v", got.Labels)
		}
	}
	deployed, err := helm.Deployed("web")
	if err != nil || deployed.Version != 2 {
		t.Errorf("deployed is %v, %v", deployed, err)
	}
	last, err := helm.Last("web")
	if err != nil || last.Version != 2 {
		t.Errorf("last is %v, %v", last, err)
	}
}

// TestWeReadHelms: what Helm's own driver stores, we read; it says nothing of a method.
func TestWeReadHelms(t *testing.T) {
	clientset := fake.NewClientset()
	secretsOf := clientset.CoreV1().Secrets("demo")
	helm := helmstorage.Init(driver.NewSecrets(secretsOf))
	want := made("web", 3, release.StatusDeployed)
	if err := helm.Create(want); err != nil {
		t.Fatal(err)
	}
	secret, err := secretsOf.Get(t.Context(), storage.Key("web", 3), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := observe(t, newSecrets(*secret), "web").Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := sameRelease(t, want, got.Release); diff != "" {
		t.Errorf("(-Helm's +ours):\n%s", diff)
	}
	if got.Method != storage.ClientSide || got.Labels["team"] != "shop" || len(got.Labels) != 1 {
		t.Errorf("method %q, labels %v", got.Method, got.Labels)
	}
}

// TestHelmReadsFluxMadeAfterUs: a release that Flux has stored and we have superseded is still all that it was.
func TestHelmReadsFluxMadeAfterUs(t *testing.T) {
	items, _ := fluxMade(t, "2")
	s := newSecrets(items...)
	before := documentOf(t, s.items[storage.Key("web", 2)])
	store := sdk(t, observe(t, s, "web"), storage.Operation{})
	rel, err := store.Deployed("web")
	if err != nil {
		t.Fatal(err)
	}
	rel.SetStatus(release.StatusSuperseded, "superseded by us")
	if err := store.Update(rel); err != nil {
		t.Fatal(err)
	}
	after := documentOf(t, s.items[storage.Key("web", 2)])
	info := before["info"].(map[string]any)
	info["status"], info["description"] = "superseded", "superseded by us"
	if diff := gocmp.Diff(before, after); diff != "" {
		t.Errorf("more than the status has changed:\n%s", diff)
	}
	got, err := helm3(t, s).Get("web", 2)
	if err != nil || got.Info.Status != release.StatusSuperseded {
		t.Errorf("Helm reads %v, %v", got, err)
	}
}

// documentOf returns what a storage Secret holds, whoever wrote it.
func documentOf(t testing.TB, secret corev1.Secret) map[string]any {
	t.Helper()
	return decode(t, secret.Data["release"])
}

// TestUpdate_KeepsWhatItDoesNotKnow: fields that another version of Helm has put into a release, and what somebody has put
// on its Secret, are there after an update.
func TestUpdate_KeepsWhatItDoesNotKnow(t *testing.T) {
	doc := map[string]any{
		"name": "web", "version": 1, "namespace": "demo", "apply_method": "csa", "future": map[string]any{"a": []any{"b"}},
		"info":  map[string]any{"status": "deployed", "deleted": "", "rollback_revision": float64(7)},
		"chart": map[string]any{"metadata": map[string]any{"name": "web", "version": "1.0.0"}, "modtime": "2026-11-23T11:53:35Z"},
	}
	secret := secretOf("web", 1, "deployed", encode(t, doc))
	secret.Annotations = map[string]string{"backup": "yes"}
	s := newSecrets(secret)
	store := sdk(t, observe(t, s, "web"), storage.Operation{Method: storage.ServerSide})
	rel, err := store.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	rel.SetStatus(release.StatusFailed, "")
	if err := store.Update(rel); err != nil {
		t.Fatal(err)
	}
	got := documentOf(t, s.items[secret.Name])
	if diff := gocmp.Diff([]any{"csa", doc["future"], float64(7), doc["chart"]},
		[]any{got["apply_method"], got["future"], got["info"].(map[string]any)["rollback_revision"], got["chart"]}); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if s.items[secret.Name].Annotations["backup"] != "yes" || s.items[secret.Name].Labels["status"] != "failed" {
		t.Errorf("metadata %+v", s.items[secret.Name].ObjectMeta)
	}
}

// TestOperation: the chart that was rendered is stored as the one it was made of, by creation and by updates, and a
// new revision has the operation's method, whatever the one before it had.
func TestOperation(t *testing.T) {
	s := newSecrets()
	original := madeChart()
	rendered := madeChart()
	rendered.Templates[0].Data = []byte("kind: ConfigMap\n")
	rel := made("web", 1, release.StatusPendingInstall)
	rel.Chart = rendered
	r := observe(t, s, "web")
	store := sdk(t, r, storage.Operation{Rendered: rendered, Chart: original, Method: storage.ServerSide})
	if err := store.Create(rel); err != nil {
		t.Fatal(err)
	}
	rel.SetStatus(release.StatusDeployed, "done")
	if err := store.Update(rel); err != nil {
		t.Fatal(err)
	}
	for _, from := range []*storage.Revisions{r, observe(t, s, "web")} {
		got, err := from.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(original.Templates, got.Chart.Templates); diff != "" || got.Method != storage.ServerSide || got.Info.Status != release.StatusDeployed {
			t.Errorf("%s, %s, templates:\n%s", got.Method, got.Info.Status, diff)
		}
	}
	back := made("web", 2, release.StatusDeployed)
	if err := sdk(t, r, storage.Operation{Method: storage.ClientSide}).Create(back); err != nil {
		t.Fatal(err)
	}
	if got, err := observe(t, s, "web").Last(t.Context()); err != nil || got.Method != storage.ClientSide {
		t.Errorf("%v, %v: want the method of the operation", got, err)
	}
}

// TestOneList: an observation is one request; what an action asks the storage for costs none but what it writes.
func TestOneList(t *testing.T) {
	s := newSecrets()
	store(t, s, made("web", 1, release.StatusSuperseded), made("web", 2, release.StatusDeployed), made("other", 1, release.StatusDeployed))
	r := observe(t, s, "web")
	helm := sdk(t, r, storage.Operation{})
	helm.MaxHistory = 2
	last, err := helm.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := helm.Deployed("web"); err != nil {
		t.Fatal(err)
	}
	if err := helm.Create(made("web", 3, release.StatusPendingUpgrade)); err != nil {
		t.Fatal(err)
	}
	last.SetStatus(release.StatusSuperseded, "")
	if err := helm.Update(last); err != nil {
		t.Fatal(err)
	}
	if history, err := helm.History("web"); err != nil || len(history) != 2 {
		t.Errorf("%d revisions, %v", len(history), err)
	}
	want := []string{"list", "delete " + storage.Key("web", 1), "create " + storage.Key("web", 3), "update " + storage.Key("web", 2)}
	if diff := gocmp.Diff(want, s.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if _, err := helm3(t, s).Get("other", 1); err != nil {
		t.Errorf("another release: %v", err)
	}
}

// TestReadsAreCopies: what the SDK does to a release is not so until it has written it.
func TestReadsAreCopies(t *testing.T) {
	s := newSecrets()
	store(t, s, made("web", 1, release.StatusDeployed))
	r := observe(t, s, "web")
	for range 2 {
		rel, err := r.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rel.Info.Status != release.StatusDeployed || rel.Hooks[0].LastRun.Phase != "" {
			t.Fatalf("%s, %s", rel.Info.Status, rel.Hooks[0].LastRun.Phase)
		}
		rel.Info.Status, rel.Hooks[0].LastRun.Phase = release.StatusFailed, release.HookPhaseFailed
	}
}

// TestRemembered: what is remembered of a write is what would be read of it, to the digest.
func TestRemembered(t *testing.T) {
	s := newSecrets()
	r := observe(t, s, "web")
	rel := made("web", 1, release.StatusPendingInstall)
	rel.Info.LastDeployed = helmtime.Now()
	rel.Config = map[string]any{"big": int64(9007199254740993), "list": []any{int64(1), map[string]any{}}, "null": nil}
	helm := sdk(t, r, storage.Operation{Method: storage.ServerSide})
	if err := helm.Create(rel); err != nil {
		t.Fatal(err)
	}
	rel.Hooks[0].LastRun = release.HookExecution{StartedAt: helmtime.Now(), Phase: release.HookPhaseRunning}
	if err := helm.Update(rel); err != nil {
		t.Fatal(err)
	}
	remembered, err := r.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read, err := observe(t, s, "web").Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := sameRelease(t, remembered.Release, read.Release); diff != "" || remembered.Method != read.Method {
		t.Errorf("%s, %s (-remembered +read):\n%s", remembered.Method, read.Method, diff)
	}
	if diff := gocmp.Diff(remembered.Config, read.Config); diff != "" {
		t.Errorf("values (-remembered +read):\n%s", diff)
	}
	want := storage.Digest(rel, "")
	for _, other := range []*storage.Release{remembered, read} {
		if got := storage.Digest(other.Release, ""); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
		if got := values.Digest(other.Config); got != values.Digest(rel.Config) {
			t.Errorf("digest of the values %s, want %s", got, values.Digest(rel.Config))
		}
	}
}

// TestTogether: the SDK fails a release while the goroutine that worked on it is still at it.
func TestTogether(t *testing.T) {
	s := newSecrets()
	store(t, s, made("web", 1, release.StatusDeployed), made("web", 2, release.StatusPendingUpgrade))
	helm := sdk(t, observe(t, s, "web"), storage.Operation{})
	var group sync.WaitGroup
	for _, status := range []release.Status{release.StatusFailed, release.StatusDeployed} {
		group.Go(func() {
			rel, err := helm.Last("web")
			if err != nil {
				t.Error(err)
				return
			}
			rel.SetStatus(status, string(status))
			if _, err := helm.History("web"); err != nil {
				t.Error(err)
			}
			if err := helm.Update(rel); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	last, err := helm3(t, s).Last("web")
	if err != nil || last.Info.Description != string(last.Info.Status) || last.Info.Status == release.StatusPendingUpgrade {
		t.Errorf("%+v, %v", last.Info, err)
	}
}

// TestA29_CorruptQuotesNothing: what is broken may hold a Secret's values.
func TestA29_CorruptQuotesNothing(t *testing.T) {
	const canary = "cAnArY"
	for _, data := range [][]byte{
		[]byte(canary), encodeText(t, canary), encodeText(t, "{\""+canary),
		encode(t, map[string]any{"name": map[string]any{canary: canary}}),
		encode(t, with(documentFor("web", 1, "deployed"), "config", canary)),
		encode(t, with(documentFor("web", 1, "deployed"), "info", map[string]any{"first_deployed": canary})),
		encode(t, with(documentFor("web", 1, "deployed"), "version", canary)),
		encode(t, documentFor(canary, 1, "deployed")),
	} {
		_, err := observe(t, newSecrets(secretOf("web", 1, "deployed", data)), "web").Get(t.Context(), 1)
		var corrupt *storage.CorruptError
		if !errors.As(err, &corrupt) || strings.Contains(err.Error(), canary) {
			t.Errorf("%v", err)
		}
	}
}

// TestLongHistory: of thousands of revisions only those are read that are asked for.
func TestLongHistory(t *testing.T) {
	s := newSecrets()
	for version := 1; version <= 3000; version++ {
		status := "superseded"
		if version == 2500 {
			status = "deployed"
		}
		s.put(new(secretOf("web", version, status, encode(t, documentFor("web", version, status)))))
	}
	r := observe(t, s, "web")
	helm := sdk(t, r, storage.Operation{})
	helm.MaxHistory = 0
	if last, err := helm.Last("web"); err != nil || last.Version != 3000 {
		t.Fatalf("last is %v, %v", last, err)
	}
	if deployed, err := helm.Deployed("web"); err != nil || deployed.Version != 2500 || deployed.Chart.Metadata.Name != "web" {
		t.Fatalf("deployed is %v, %v", deployed, err)
	}
	history, err := helm.History("web")
	if err != nil || len(history) != 3000 {
		t.Fatalf("%d revisions, %v", len(history), err)
	}
	want := []string{"list", "headers", "get " + storage.Key("web", 3000), "get " + storage.Key("web", 2500)}
	if diff := gocmp.Diff(want, s.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	// One of those that only their labels are known of is written as what it is.
	i := slices.IndexFunc(history, func(rel *release.Release) bool { return rel.Version == 1234 })
	history[i].SetStatus(release.StatusFailed, "by hand")
	if err := helm.Update(history[i]); err != nil {
		t.Fatal(err)
	}
	if got, err := helm3(t, newSecrets(s.items[storage.Key("web", 1234)])).Get("web", 1234); err != nil || got.Manifest == "" || got.Info.Status != release.StatusFailed {
		t.Errorf("Helm reads %v, %v", got, err)
	}
}

// TestF16_Corrupt: a Secret that somebody has broken is named, and the rest of the history goes on.
func TestF16_Corrupt(t *testing.T) {
	whole := encode(t, documentFor("web", 2, "deployed"))
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"text":            []byte("hello"),
		"cut off":         whole[:len(whole)/2],
		"no JSON":         encodeText(t, "hello"),
		"no map":          encodeText(t, "[1]"),
		"null":            encodeText(t, "null"),
		"wrong type":      encode(t, map[string]any{"name": "web", "version": "2"}),
		"no info":         encode(t, map[string]any{"name": "web", "version": 2, "chart": map[string]any{"metadata": map[string]any{}}}),
		"no chart":        encode(t, map[string]any{"name": "web", "version": 2, "info": map[string]any{}}),
		"no metadata":     encode(t, map[string]any{"name": "web", "version": 2, "info": map[string]any{}, "chart": map[string]any{}}),
		"a hook of null":  encode(t, with(documentFor("web", 2, "deployed"), "hooks", []any{nil})),
		"another release": encode(t, documentFor("other", 2, "deployed")),
		"another version": encode(t, documentFor("web", 1, "deployed")),
		"a bomb":          encodeText(t, strings.Repeat(" ", 65<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSecrets(secretOf("web", 1, "superseded", encode(t, documentFor("web", 1, "superseded"))), secretOf("web", 2, "deployed", data))
			r := observe(t, s, "web")
			releases, corrupt, err := r.History(t.Context(), 0)
			if err != nil || len(releases) != 1 || releases[0].Version != 1 {
				t.Errorf("%d releases, %v", len(releases), err)
			}
			if diff := gocmp.Diff([]string{storage.Key("web", 2)}, corrupt); diff != "" {
				t.Errorf("corrupt (-want +got):\n%s", diff)
			}
			var fault *storage.CorruptError
			if _, err := r.Get(t.Context(), 2); !errors.As(err, &fault) || fault.Secret != storage.Key("web", 2) {
				t.Errorf("%v, want a CorruptError", err)
			}
			// An upgrade of revision 1 makes a revision 2, and there it goes.
			if err := sdk(t, r, storage.Operation{}).Create(made("web", 2, release.StatusPendingUpgrade)); err != nil {
				t.Fatal(err)
			}
			if _, err := helm3(t, s).Get("web", 2); err != nil || len(r.Corrupt()) != 0 {
				t.Errorf("still corrupt: %v, %v", r.Corrupt(), err)
			}
		})
	}
}

// TestF16_RemoveCorrupt: what a release that is gone leaves behind can be removed, and nothing else is.
func TestF16_RemoveCorrupt(t *testing.T) {
	s := newSecrets(secretOf("web", 1, "deployed", encode(t, documentFor("web", 1, "deployed"))), secretOf("web", 2, "deployed", []byte("hello")))
	r := observe(t, s, "web")
	if _, _, err := r.History(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveCorrupt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, left := s.items[storage.Key("web", 1)]; !left || len(s.items) != 1 {
		t.Errorf("%d Secrets are left", len(s.items))
	}
}

// TestF16_Deleted: a Secret that goes away while its release is worked on is written again, and one that is to be deleted and
// is gone is deleted.
func TestF16_Deleted(t *testing.T) {
	s := newSecrets()
	store(t, s, made("web", 1, release.StatusDeployed), made("web", 2, release.StatusPendingUpgrade))
	helm := sdk(t, observe(t, s, "web"), storage.Operation{})
	last, err := helm.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	clear(s.items)
	last.SetStatus(release.StatusDeployed, "")
	if err := helm.Update(last); err != nil {
		t.Fatal(err)
	}
	if got, err := helm3(t, s).Last("web"); err != nil || got.Info.Status != release.StatusDeployed {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := helm.Delete("web", 1); err != nil {
		t.Error(err)
	}
}

// TestF13_Conflict: what somebody else has changed in the meantime is not overwritten and not deleted.
func TestF13_Conflict(t *testing.T) {
	s := newSecrets()
	store(t, s, made("web", 1, release.StatusPendingInstall))
	helm := sdk(t, observe(t, s, "web"), storage.Operation{})
	rel, err := helm.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	other := s.items[storage.Key("web", 1)]
	s.put(&other)
	var conflict *storage.ConflictError
	if err := helm.Update(rel); !errors.As(err, &conflict) {
		t.Errorf("update: %v, want a ConflictError", err)
	}
	if _, err := helm.Delete("web", 1); !errors.As(err, &conflict) {
		t.Errorf("delete: %v, want a ConflictError", err)
	}
	if got := s.items[storage.Key("web", 1)]; got.ResourceVersion != other.ResourceVersion {
		t.Error("it was written")
	}
	if err := helm.Create(made("web", 1, release.StatusPendingInstall)); !errors.Is(err, driver.ErrReleaseExists) {
		t.Errorf("create: %v, want ErrReleaseExists", err)
	}
}

// TestContract: what Helm's SDK expects of a driver where there is nothing.
func TestContract(t *testing.T) {
	s := newSecrets()
	store(t, s, made("other", 1, release.StatusDeployed))
	helm := sdk(t, observe(t, s, "web"), storage.Operation{})
	if _, err := helm.History("web"); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("history: %v", err)
	}
	if _, err := helm.Deployed("web"); !errors.Is(err, driver.ErrNoDeployedReleases) {
		t.Errorf("deployed: %v", err)
	}
	if _, err := helm.Get("web", 1); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := helm.Get("other", 1); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("get another release: %v", err)
	}
	if err := helm.Update(made("web", 1, release.StatusDeployed)); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("update: %v", err)
	}
	if _, err := helm.Delete("web", 1); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("delete: %v", err)
	}
	if err := helm.Driver.Create(storage.Key("web", 2), made("web", 1, release.StatusDeployed)); !errors.Is(err, driver.ErrInvalidKey) {
		t.Errorf("create under another key: %v", err)
	}
	if list, err := helm.ListReleases(); err != nil || len(list) != 0 {
		t.Errorf("list: %d, %v", len(list), err)
	}
	if _, err := observe(t, s, "web").Last(t.Context()); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("last: %v", err)
	}
}

// TestUnread: what cannot be read is neither missing nor corrupt.
func TestUnread(t *testing.T) {
	s := newSecrets()
	s.err = errors.New("connection refused")
	if _, err := storage.Observe(t.Context(), s, "web"); !errors.Is(err, s.err) {
		t.Errorf("%v, want %v", err, s.err)
	}
}

// TestF15_TooLarge: a release that does not fit is found out before anything is written; one that fits without files
// that no template uses is stored without them, and says so.
func TestF15_TooLarge(t *testing.T) {
	s := newSecrets()
	r := observe(t, s, "web")
	d := r.Driver(t.Context(), storage.Operation{})
	rel := made("web", 1, release.StatusPendingInstall)
	rel.Chart.Files = []*chart.File{
		{Name: "files/used.conf", Data: noise(1, 50<<10)}, {Name: "docs/guide.md", Data: noise(2, 900<<10)},
		{Name: "glob/a.json", Data: []byte("{}")}, {Name: "LICENSE", Data: []byte("free")},
	}
	rel.Chart.Templates = append(rel.Chart.Templates, &chart.File{Name: "templates/files.yaml", Data: []byte(
		"{{ .Files.Get \"files/used.conf\" }}{{ range $path, $_ := .Files.Glob \"glob/*.json\" }}{{ $.Files.Get $path }}{{ end }}")})
	dropped, err := d.Check(rel)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]string{"LICENSE", "docs/guide.md"}, dropped); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	if err := d.Create(storage.Key("web", 1), rel); err != nil {
		t.Fatal(err)
	}
	got, err := helm3(t, s).Get("web", 1)
	if err != nil || len(got.Chart.Files) != 2 || len(got.Chart.Templates) != 2 {
		t.Errorf("stored %v, %v", got, err)
	}
	if len(rel.Chart.Files) != 4 {
		t.Errorf("the chart itself has lost files: %d", len(rel.Chart.Files))
	}

	rel.Version, rel.Manifest = 2, base64.StdEncoding.EncodeToString(noise(3, 900<<10))
	before := len(s.calls)
	var tooLarge *storage.TooLargeError
	if _, err := d.Check(rel); !errors.As(err, &tooLarge) || tooLarge.Size <= tooLarge.Limit {
		t.Errorf("check: %v, want a TooLargeError", err)
	}
	if err := d.Create(storage.Key("web", 2), rel); !errors.As(err, &tooLarge) {
		t.Errorf("create: %v, want a TooLargeError", err)
	}
	if len(s.calls) != before {
		t.Errorf("requests were made: %v", s.calls[before:])
	}
}

// TestF15_Message: two attempts at the same release differ in their times, and so by a few bytes; the message does not.
func TestF15_Message(t *testing.T) {
	a, b := &storage.TooLargeError{Size: 2<<20 - 5, Limit: 1 << 20}, &storage.TooLargeError{Size: 2<<20 - 9, Limit: 1 << 20}
	if a.Error() != b.Error() || !strings.Contains(a.Error(), fmt.Sprint(2048)) {
		t.Errorf("%s\n%s", a, b)
	}
}
