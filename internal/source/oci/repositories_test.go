package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ociTypes "github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// TestStatusIsFluxs holds the status against the one in Flux's recording of the same chart in a registry.
func TestStatusIsFluxs(t *testing.T) {
	chart, err := os.ReadFile("testdata/web-1.0.0.tgz")
	if err != nil {
		t.Fatal(err)
	}
	const chartType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	annotations := map[string]string{
		"org.opencontainers.image.created":  "2026-11-23T00:00:00Z",
		"org.opencontainers.image.revision": "v1@sha1:0000000000000000000000000000000000000000",
		"org.opencontainers.image.source":   "local",
	}
	s := serve(t)
	digest := s.push(t, "charts/web", "1.0.0", image(t, chart, chartType, annotations)).String()
	s.push(t, "charts/web", "1.1.0", image(t, chart, chartType, nil))
	selected := &sourcev1.OCILayerSelector{MediaType: chartType, Operation: "copy"}
	w := newWorld(t, repository(s.url("charts/web"), func(spec *sourcev1.OCIRepositorySpec) {
		spec.Reference = &sourcev1.OCIRepositoryRef{SemVer: "1.0.x"}
		spec.LayerSelector = selected
	}))
	o, result := w.reconcile()
	size, ready := int64(1017), "stored artifact for digest '1.0.0@"+digest+"'"
	want := sourcev1.OCIRepositoryStatus{
		ObservedGeneration: 1, ObservedLayerSelector: selected, URL: "http://source-controller/ocirepository/demo/web/latest.tar.gz",
		Artifact: &meta.Artifact{
			Digest: "sha256:93cad7568f88b16663d74766c305ad6074d93e000bac525c9cbd78b842ba87c2", Size: &size, Revision: "1.0.0@" + digest,
			Path: "ocirepository/demo/web/" + digest + ".tar.gz", URL: "http://source-controller/ocirepository/demo/web/" + digest + ".tar.gz",
			Metadata: annotations,
		},
		Conditions: []metav1.Condition{
			{Type: "Ready", Status: "True", Reason: "Succeeded", Message: ready, ObservedGeneration: 1},
			{Type: "ArtifactInStorage", Status: "True", Reason: "Succeeded", Message: ready, ObservedGeneration: 1},
		},
	}
	if diff := cmp.Diff(want, o.Status, cmpopts.IgnoreTypes(metav1.Time{})); diff != "" {
		t.Errorf("status (-flux +ours):\n%s", diff)
	}
	events := []string{"Normal NewArtifact stored artifact with revision '1.0.0@" + digest + "' from '" + s.url("charts/web") +
		"', origin source 'local', origin revision 'v1@sha1:0000000000000000000000000000000000000000' map[source.toolkit.fluxcd.io/digest:" +
		o.Status.Artifact.Digest + " source.toolkit.fluxcd.io/revision:" + o.Status.Artifact.Revision + "]"}
	if diff := cmp.Diff(events, w.events.Take()); diff != "" {
		t.Errorf("events:\n%s", diff)
	}
	if result.RequeueAfter != time.Minute {
		t.Errorf("comes back after %v", result.RequeueAfter)
	}
	if served, err := os.ReadFile(filepath.Join(storageOf(t, w), o.Status.Artifact.Path)); err != nil || string(served) != string(chart) {
		t.Errorf("served are other bytes than the layer's: %v", err)
	}
	again, _ := w.reconcile()
	if again.ResourceVersion != o.ResourceVersion || len(w.events.Take()) > 0 {
		t.Error("a run in which nothing changed wrote a status or sent an event")
	}
}

// storageOf returns the directory of the store.
func storageOf(t *testing.T, w *world) string {
	t.Helper()
	dir, err := w.store.Dir("x")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

func TestIgnoreRulesApplyToWhatIsExtracted(t *testing.T) {
	s := serve(t)
	layer := map[string]string{"a.yaml": "a", "b.jpg": "b", "sub/.sourceignore": "c.yaml\n", "sub/c.yaml": "c", "sub/d.yaml": "d", "c.yaml": "c"}
	s.push(t, "app", "latest", files(t, layer))
	w := newWorld(t, repository(s.url("app"), nil))
	o, _ := w.reconcile()
	if diff := cmp.Diff([]string{"a.yaml=a", "b.jpg=b", "c.yaml=c", "sub/.sourceignore=c.yaml\n", "sub/d.yaml=d"}, w.stored(o)); diff != "" {
		t.Errorf("files by .sourceignore:\n%s", diff)
	}
	ignore := "/sub\n"
	w.change(func(o *sourcev1.OCIRepository) { o.Spec.Ignore, o.Generation = &ignore, 2 })
	o, _ = w.reconcile()
	if diff := cmp.Diff([]string{"a.yaml=a", "b.jpg=b", "c.yaml=c"}, w.stored(o)); diff != "" {
		t.Errorf("files by spec.ignore:\n%s", diff)
	}
	if o.Status.ObservedIgnore == nil || *o.Status.ObservedIgnore != ignore {
		t.Error("observedIgnore is not what was applied")
	}
}

func TestReferencesByPrecedence(t *testing.T) {
	s := serve(t)
	digests := map[string]string{}
	for _, tag := range []string{"latest", "1.0.0", "1.2.0", "2.0.0-rc.1", "dev"} {
		digests[tag] = s.push(t, "app", tag, files(t, map[string]string{"tag": tag})).String()
	}
	for name, tt := range map[string]struct {
		ref  *sourcev1.OCIRepositoryRef
		want string
	}{
		"none":            {nil, "latest@" + digests["latest"]},
		"tag":             {&sourcev1.OCIRepositoryRef{Tag: "dev"}, "dev@" + digests["dev"]},
		"semver over tag": {&sourcev1.OCIRepositoryRef{Tag: "dev", SemVer: "1.x"}, "1.2.0@" + digests["1.2.0"]},
		"semver filtered": {&sourcev1.OCIRepositoryRef{SemVer: ">=1.0.0-0", SemverFilter: ".*-rc.*"}, "2.0.0-rc.1@" + digests["2.0.0-rc.1"]},
		"digest over all": {&sourcev1.OCIRepositoryRef{Tag: "dev", SemVer: "1.x", Digest: digests["1.0.0"]}, digests["1.0.0"]},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Reference = tt.ref }))
			o, _ := w.reconcile()
			if o.Status.Artifact == nil || o.Status.Artifact.Revision != tt.want {
				t.Errorf("artifact is %+v, want revision %s; %s", o.Status.Artifact, tt.want, message(o, "Ready"))
			}
		})
	}
}

func TestBadSpecsStall(t *testing.T) {
	for name, tt := range map[string]struct {
		set    func(*sourcev1.OCIRepositorySpec)
		reason string
	}{
		"tag in the URL":  {func(s *sourcev1.OCIRepositorySpec) { s.URL += ":v1" }, sourcev1.URLInvalidReason},
		"user in the URL": {func(s *sourcev1.OCIRepositorySpec) { s.URL = "oci://user:pw@example.com/a" }, sourcev1.URLInvalidReason},
		"A05 path":        {func(s *sourcev1.OCIRepositorySpec) { s.URL = "oci://example.com/team/../other" }, sourcev1.URLInvalidReason},
		"another scheme":  {func(s *sourcev1.OCIRepositorySpec) { s.URL = "https://example.com/a" }, sourcev1.URLInvalidReason},
		"digest":          {func(s *sourcev1.OCIRepositorySpec) { s.Reference = &sourcev1.OCIRepositoryRef{Digest: "sha256:1"} }, sourcev1.OCIPullFailedReason},
		"range":           {func(s *sourcev1.OCIRepositorySpec) { s.Reference = &sourcev1.OCIRepositoryRef{SemVer: "what"} }, sourcev1.OCIPullFailedReason},
		"filter": {func(s *sourcev1.OCIRepositorySpec) {
			s.Reference = &sourcev1.OCIRepositoryRef{SemVer: "1.x", SemverFilter: "("}
		}, sourcev1.OCIPullFailedReason},
		"account and cloud, without the gate": {func(s *sourcev1.OCIRepositorySpec) {
			s.Provider, s.ServiceAccountName, s.Insecure = "aws", "x", false
		}, meta.FeatureGateDisabledReason},
		"A09 plain http and cloud": {func(s *sourcev1.OCIRepositorySpec) { s.Provider = "gcp" }, "UnsupportedField"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, repository("oci://example.com/app", tt.set))
			o, result := w.reconcile()
			if diff := cmp.Diff([]string{"Stalled=True " + tt.reason, "Ready=False " + tt.reason, "FetchFailed=True " + tt.reason}, conditions(o)); diff != "" {
				t.Errorf("conditions:\n%s", diff)
			}
			if result.RequeueAfter != 0 || strings.Contains(message(o, "Ready"), "user:pw") {
				t.Errorf("comes back after %v; %s", result.RequeueAfter, message(o, "Ready"))
			}
		})
	}
}

func TestF25_TheOldArtifactStaysWhileTheRegistryIsDown(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, repository(s.url("app"), nil))
	before, _ := w.reconcile()
	w.events.Take()
	s.hook(func(res http.ResponseWriter, _ *http.Request) bool {
		res.WriteHeader(http.StatusInternalServerError)
		return true
	})
	w.clock.pass(time.Minute)

	o, result := w.reconcile()
	want := []string{"Ready=False OCIArtifactPullFailed", "Reconciling=True ProgressingWithRetry", "FetchFailed=True OCIArtifactPullFailed", "ArtifactInStorage=True Succeeded"}
	if diff := cmp.Diff(want, conditions(o), cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("conditions:\n%s", diff)
	}
	if diff := cmp.Diff(before.Status.Artifact, o.Status.Artifact); diff != "" || !w.store.Holds(artifact.Object{Kind: sourcev1.OCIRepositoryKind, Namespace: o.Namespace, Name: o.Name}, o.Status.Artifact) {
		t.Errorf("artifact:\n%s", diff)
	}
	if result.RequeueAfter != time.Second {
		t.Errorf("comes back after %v", result.RequeueAfter)
	}
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Warning OCIArtifactPullFailed ") {
		t.Errorf("events are %q", events)
	}
	w.clock.pass(10 * time.Second)
	if w.reconcile(); len(w.events.Take()) > 0 {
		t.Error("the same failure was told twice")
	}

	s.hook(nil)
	w.clock.pass(10 * time.Second)
	o, _ = w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" {
		t.Errorf("conditions after recovery:\n%s", diff)
	}
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal Succeeded stored artifact with revision 'latest@") {
		t.Errorf("events are %q", events)
	}
}

func TestF32_LostStorageIsFetchedAgainQuietly(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, repository(s.url("app"), nil))
	before, _ := w.reconcile()
	w.restart(t.TempDir())
	o, _ := w.reconcile()
	if !w.store.Holds(artifact.Object{Kind: sourcev1.OCIRepositoryKind, Namespace: o.Namespace, Name: o.Name}, o.Status.Artifact) || o.Status.Artifact.Revision != before.Status.Artifact.Revision {
		t.Errorf("artifact is %+v", o.Status.Artifact)
	}
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" || len(w.events.Take()) > 0 {
		t.Errorf("conditions:\n%s", diff)
	}
}

// TestF24_SilentRegistry: a registry that accepts and never answers costs a run, not a worker.
func TestF24_SilentRegistry(t *testing.T) {
	s := serve(t)
	stop := make(chan struct{})
	defer close(stop)
	s.hook(func(_ http.ResponseWriter, req *http.Request) bool {
		select {
		case <-stop:
		case <-req.Context().Done():
		}
		return true
	})
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) {
		spec.Timeout = &metav1.Duration{Duration: time.Second}
	}))
	began := time.Now()
	o, _ := w.reconcile()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if got := message(o, "Ready"); !strings.HasSuffix(got, "the server did not finish within spec.timeout") {
		t.Errorf("message is %q", got)
	}
}

// many makes n objects that name the same artifact.
func many(n int, url string) (objects []client.Object, keys []types.NamespacedName) {
	for i := range n {
		o := repository(url, nil)
		o.Name, o.UID = fmt.Sprintf("app-%d", i), types.UID(fmt.Sprint(i))
		objects, keys = append(objects, o), append(keys, client.ObjectKeyFromObject(o))
	}
	return objects, keys
}

func TestF35_OneRequestAPollForAHundredObjects(t *testing.T) {
	s := serve(t)
	first := s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	objects, keys := many(100, s.url("app"))
	w := newWorld(t, objects...)
	all := func() (revisions map[string]int) {
		revisions = map[string]int{}
		done := make(chan string)
		for _, key := range keys {
			go func() {
				o, _ := w.reconcileKey(key)
				done <- o.Status.Artifact.Revision
			}()
		}
		for range keys {
			revisions[<-done]++
		}
		return revisions
	}
	if diff := cmp.Diff(map[string]int{"latest@" + first.String(): 100}, all()); diff != "" {
		t.Errorf("revisions:\n%s", diff)
	}
	layer := "" // the one blob
	for _, r := range s.take() {
		if strings.Contains(r, "/blobs/") && layer == "" {
			layer = r
		} else if r != "HEAD /v2/app/manifests/latest" && r != "GET /v2/app/manifests/"+first.String() {
			t.Errorf("the first poll asked %s once more", r)
		}
	}
	w.clock.pass(time.Minute)
	all()
	if diff := cmp.Diff([]string{"HEAD /v2/app/manifests/latest"}, s.takeAll()); diff != "" {
		t.Errorf("requests of a poll without news:\n%s", diff)
	}
	second := s.push(t, "app", "latest", files(t, map[string]string{"n": "2"}))
	w.clock.pass(time.Minute)
	if diff := cmp.Diff(map[string]int{"latest@" + second.String(): 100}, all()); diff != "" {
		t.Errorf("revisions:\n%s", diff)
	}
	if got := s.takeAll(); len(got) != 3 {
		t.Errorf("a poll with news asked %q", got)
	}
}

func TestF35_RetryAfterIsHonoured(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	s.hook(func(res http.ResponseWriter, _ *http.Request) bool {
		res.Header().Set("Retry-After", "1000")
		res.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	objects, keys := many(3, s.url("app"))
	elsewhere := repository(s.url("other"), nil)
	elsewhere.Name, elsewhere.UID = "elsewhere", "elsewhere"
	w := newWorld(t, append(objects, elsewhere)...)
	keys = append(keys, client.ObjectKeyFromObject(elsewhere))
	told := map[string]bool{}
	for _, key := range keys {
		o, result := w.reconcileKey(key)
		told[strings.ReplaceAll(message(o, "Ready"), "/other", "/app")] = true
		if result.RequeueAfter < 900*time.Second {
			t.Errorf("comes back after %v", result.RequeueAfter)
		}
		w.clock.pass(time.Minute)
	}
	if len(told) != 1 {
		t.Errorf("the same failure has several texts: %v", told)
	}
	if asked := s.takeAll(); len(asked) != 1 {
		t.Errorf("the registry was asked %q", asked)
	}
	other := repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.SecretRef = &meta.LocalObjectReference{Name: "login"} })
	other.Name, other.UID = "other", "other"
	login := secretOf("login", map[string]string{".dockerconfigjson": `{"auths":{"` + s.host + `":{"username":"robot","password":"secret"}}}`})
	for _, o := range []client.Object{other, login} {
		if err := w.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if w.reconcileKey(client.ObjectKeyFromObject(other)); len(s.takeAll()) != 1 {
		t.Error("what one user was told holds another back")
	}
}

// TestF36_ARequestIsAnsweredByTheRegistry: an answer from before the request does not do.
func TestF36_ARequestIsAnsweredByTheRegistry(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, repository(s.url("app"), nil))
	w.reconcile()
	second := s.push(t, "app", "latest", files(t, map[string]string{"n": "2"}))
	w.clock.pass(time.Second)
	if o, _ := w.reconcile(); o.Status.Artifact.Revision == "latest@"+second.String() {
		t.Error("a run that nobody asked for did not share the recent answer")
	}
	w.change(func(o *sourcev1.OCIRepository) {
		o.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now, please"}
	})
	o, _ := w.reconcile()
	if o.Status.Artifact.Revision != "latest@"+second.String() || o.Status.LastHandledReconcileAt != "now, please" {
		t.Errorf("revision is %s", o.Status.Artifact.Revision)
	}
}

func TestA04_HostileLayers(t *testing.T) {
	link := func(kind byte) []tar.Header {
		return []tar.Header{{Name: "link", Typeflag: kind, Linkname: "/etc/passwd"}, {Name: "ok", Typeflag: tar.TypeReg, Size: 1}}
	}
	file := func(name string) []tar.Header { return []tar.Header{{Name: name, Typeflag: tar.TypeReg}} }
	for name, tt := range map[string]struct {
		headers []tar.Header
		reason  string
		stored  []string
	}{
		"A01 parent":        {file("../x"), sourcev1.InvalidPathReason, nil},
		"A01 absolute":      {file("/etc/x"), sourcev1.InvalidPathReason, nil},
		"A01 drive":         {file("C:x"), sourcev1.InvalidPathReason, nil},
		"A01 long":          {file(strings.Repeat("x/", 2048) + "x"), sourcev1.InvalidPathReason, nil},
		"A02 symbolic link": {link(tar.TypeSymlink), "Succeeded", []string{"ok=1"}},
		"A02 hard link":     {link(tar.TypeLink), "Succeeded", []string{"ok=1"}},
		"A04 bomb":          {[]tar.Header{{Name: "big", Typeflag: tar.TypeReg, Size: 1 << 20}}, sourcev1.ArchiveOperationFailedReason, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			content := map[string]string{"ok": "1", "big": strings.Repeat("0", 1<<20)}
			s.push(t, "app", "latest", image(t, tarball(t, tt.headers, content), contentType, nil))
			w := newWorld(t, repository(s.url("app"), nil))
			w.limits = artifact.Limits{Files: 10, Bytes: 1 << 16, Depth: 10}
			dir := t.TempDir()
			w.restart(dir)
			o, _ := w.reconcile()
			if got := ready(o); !strings.HasSuffix(got, " "+tt.reason) {
				t.Errorf("Ready is %s: %s", got, message(o, "Ready"))
			}
			if diff := cmp.Diff(tt.stored, w.stored(o)); diff != "" {
				t.Errorf("stored:\n%s", diff)
			}
			if left, err := os.ReadDir(filepath.Join(dir, ".cleat", "tmp")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// TestLayersAreUnpackedByWhatTheyAre: media types say little of how a tarball is compressed.
func TestLayersAreUnpackedByWhatTheyAre(t *testing.T) {
	packed := tarball(t, []tar.Header{{Name: "a", Typeflag: tar.TypeReg, Size: 1}}, map[string]string{"a": "1"})
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		layer []byte
		kind  ociTypes.MediaType
		want  string // of the file, or of the message
	}{
		"compressed":                    {packed, contentType, "a=1"},
		"plain":                         {plain, "application/vnd.oci.image.layer.v1.tar", "a=1"},
		"plain, of another type":        {plain, contentType, "a=1"},
		"compressed, of a plain type":   {packed, "application/vnd.oci.image.layer.v1.tar", "a=1"},
		"zstd":                          {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0}, "application/vnd.oci.image.layer.v1.tar+zstd", "compressed by zstd"},
		"nothing":                       {nil, contentType, "it is empty"},
		"F01 a manifest, not a tarball": {[]byte("apiVersion: v1\nkind: Namespace\n"), "application/yaml", "reading tar"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.push(t, "app", "latest", image(t, tt.layer, tt.kind, nil))
			w := newWorld(t, repository(s.url("app"), nil))
			o, _ := w.reconcile()
			if got := append(w.stored(o), message(o, "Ready")); !strings.Contains(got[0], tt.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestLayersThatAreNotThere(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) {
		spec.LayerSelector = &sourcev1.OCILayerSelector{MediaType: "text/none"}
	}))
	o, result := w.reconcile()
	if c := ready(o); c != "False OCIArtifactLayerOperationFailed" || result.RequeueAfter != time.Minute {
		t.Errorf("%s, comes back after %v", c, result.RequeueAfter)
	}
}

// TestTheLayerIsTheOneOfTheManifest: other bytes than those of the digest are never stored.
func TestTheLayerIsTheOneOfTheManifest(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	other := tarball(t, []tar.Header{{Name: "evil", Typeflag: tar.TypeReg}}, nil)
	s.hook(func(res http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") {
			_, _ = res.Write(other)
			return true
		}
		return false
	})
	w := newWorld(t, repository(s.url("app"), nil))
	if o, _ := w.reconcile(); o.Status.Artifact != nil || ready(o) != "False OCIArtifactPullFailed" {
		t.Errorf("conditions are %q", conditions(o))
	}
}

func TestPullSecretsOfServiceAccount(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	s.hook(basicAuth("robot", "secret"))
	account := &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
	}
	pull := secretOf("pull", map[string]string{".dockerconfigjson": `{"auths":{"` + s.host + `":{"username":"robot","password":"secret"}}}`})
	w := newWorld(t, account, pull, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.ServiceAccountName = "puller" }))
	o, _ := w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" {
		t.Errorf("conditions:\n%s\n%s", diff, message(o, "Ready"))
	}
	w.change(func(o *sourcev1.OCIRepository) { o.Spec.ServiceAccountName, o.Generation = "", 2 })
	o, _ = w.reconcile()
	if c := ready(o); c != "False AuthenticationFailed" {
		t.Errorf("without credentials: %s", c)
	}
}

func basicAuth(username, password string) func(http.ResponseWriter, *http.Request) bool {
	return func(res http.ResponseWriter, req *http.Request) bool {
		if u, p, _ := req.BasicAuth(); u == username && p == password {
			return false
		}
		res.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		res.WriteHeader(http.StatusUnauthorized)
		return true
	}
}
