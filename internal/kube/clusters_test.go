package kube

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/object"
)

// secrets is what the agent's own cluster holds; it issues tokens for ServiceAccounts that are there.
type secrets struct {
	client.Client
	objects []client.Object
	issued  []string
}

func (s *secrets) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	for _, o := range s.objects {
		if client.ObjectKeyFromObject(o) != key {
			continue
		}
		switch o := o.(type) {
		case *corev1.Secret:
			if into, ok := into.(*corev1.Secret); ok {
				o.DeepCopyInto(into)
				return nil
			}
		case *corev1.ConfigMap:
			if into, ok := into.(*corev1.ConfigMap); ok {
				o.DeepCopyInto(into)
				return nil
			}
		case *corev1.ServiceAccount:
			if into, ok := into.(*corev1.ServiceAccount); ok {
				o.DeepCopyInto(into)
				return nil
			}
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, key.Name)
}

func (s *secrets) SubResource(string) client.SubResourceClient { return tokens{s: s} }

type tokens struct {
	client.SubResourceClient
	s *secrets
}

// unsigned is a token that says no more than that it expires in a long time.
const unsigned = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln"

func (t tokens) Create(_ context.Context, account, request client.Object, _ ...client.SubResourceCreateOption) error {
	r := request.(*authenticationv1.TokenRequest)
	t.s.issued = append(t.s.issued, account.GetNamespace()+"/"+account.GetName()+" for "+strings.Join(r.Spec.Audiences, ","))
	r.Status.Token = unsigned
	return nil
}

// world is an agent's clusters, whose remote ones are all one server.
type world struct {
	*Clusters
	secrets *secrets
	server  *httptest.Server
	asked   atomic.Int64
	bearer  atomic.Value
}

func newWorld(t *testing.T, change func(*RemoteOptions)) *world {
	t.Helper()
	w := &world{secrets: &secrets{}}
	w.server = httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		w.bearer.Store(r.Header.Get("Authorization"))
	}))
	t.Cleanup(w.server.Close)
	own, err := Connect(w.config(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	options := RemoteOptions{Secrets: w.secrets, Dial: (&net.Dialer{}).DialContext, UserAgent: "cleat/test"}
	if change != nil {
		change(&options)
	}
	w.Clusters = NewClusters(own, options)
	t.Cleanup(w.Close)
	return w
}

func (w *world) config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := ParseKubeconfig(w.kubeconfig(w.server.URL, "t0ken"), KubeconfigPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func (w *world) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.server.Certificate().Raw})
}

func (w *world) kubeconfig(server, token string) []byte {
	ca := base64.StdEncoding.EncodeToString(w.ca())
	return []byte(kubeconfigOf(`{server: "`+server+`", certificate-authority-data: `+ca+`}`, `{token: `+token+`}`))
}

func (w *world) secret(namespace, name, key string, data []byte) {
	for _, o := range w.secrets.objects {
		if s, ok := o.(*corev1.Secret); ok && s.Namespace == namespace && s.Name == name {
			s.Data = map[string][]byte{key: data}
			return
		}
	}
	s := &corev1.Secret{Data: map[string][]byte{key: data}}
	s.Namespace, s.Name = namespace, name
	w.secrets.objects = append(w.secrets.objects, s)
}

func secretRef(name string) meta.KubeConfigReference {
	return meta.KubeConfigReference{SecretRef: &meta.SecretKeyReference{Name: name}}
}

func named(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// Owners with the same kubeconfig share a cluster, whose watches end with the last of them.
func TestClustersAreShared(t *testing.T) {
	w := newWorld(t, nil)
	w.secret("a", "kubeconfig", "value", w.kubeconfig(w.server.URL, "one"))
	w.secret("b", "same", "value.yaml", w.kubeconfig(w.server.URL, "one"))
	x, y := named("a", "x"), named("b", "y")
	first, err := w.Remote(t.Context(), x, secretRef("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.Remote(t.Context(), y, secretRef("same"))
	if err != nil {
		t.Fatal(err)
	}
	if first != second || w.Remotes() != 1 || w.Of(x) != first || w.Of(named("a", "z")) != w.own {
		t.Fatalf("%d clusters", w.Remotes())
	}
	if asked := w.asked.Load(); asked != 1 {
		t.Errorf("asked %d times whether it is there, want once", asked)
	}
	first.Observer.Watch(x, []object.Ref{ref})
	first.Observer.Watch(y, []object.Ref{ref})

	// Other credentials are another cluster, and what was watched is watched for those who stay.
	w.secret("a", "kubeconfig", "value", w.kubeconfig(w.server.URL, "two"))
	third, err := w.Remote(t.Context(), x, secretRef("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if third == first || w.Remotes() != 2 || w.bearer.Load() != "Bearer two" {
		t.Errorf("after the Secret was changed: %d clusters, %v", w.Remotes(), w.bearer.Load())
	}
	if watches, _ := first.Observer.Counts(); watches != 1 {
		t.Errorf("%d watches are left for who stays, want 1", watches)
	}
	if w.Local(y) != w.own || w.Remotes() != 1 {
		t.Errorf("%d clusters are left, want 1", w.Remotes())
	}
	w.closing.Wait()
	if first.Observer.ctx.Err() == nil {
		t.Error("the watches of a cluster that nobody uses go on")
	}
	w.Forget(x)
	if w.Remotes() != 0 {
		t.Errorf("%d clusters without an owner", w.Remotes())
	}
}

// A20: what an owner refers to is in its own namespace.
func TestA20_ClustersReadTheOwnersNamespace(t *testing.T) {
	w := newWorld(t, nil)
	w.secret("b", "kubeconfig", "value", w.kubeconfig(w.server.URL, "one"))
	if _, err := w.Remote(t.Context(), named("a", "x"), secretRef("kubeconfig")); !apierrors.IsNotFound(err) {
		t.Errorf("error = %v, want NotFound", err)
	}
	if _, err := w.Remote(t.Context(), named("b", "x"), meta.KubeConfigReference{SecretRef: &meta.SecretKeyReference{Name: "kubeconfig", Key: "other"}}); !errors.Is(err, ErrKubeconfig) {
		t.Errorf("error = %v, want ErrKubeconfig", err)
	}
	if _, err := w.Remote(t.Context(), named("b", "x"), meta.KubeConfigReference{}); !errors.Is(err, ErrKubeconfig) {
		t.Errorf("error = %v, want ErrKubeconfig", err)
	}
	if w.Remotes() != 0 {
		t.Errorf("%d clusters", w.Remotes())
	}
}

// A cluster that is not there, or accepts and never answers, costs a worker a bounded time; the message is the same each time.
func TestF11_ClustersThatDoNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w := newWorld(t, nil)
	w.secret("a", "silent", "value", w.kubeconfig("https://"+silent.Addr().String(), "one"))
	w.secret("a", "closed", "value", w.kubeconfig("https://127.0.0.1:1", "one"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := w.Remote(ctx, named("a", "x"), secretRef("silent")); !errors.Is(err, ErrUnreachable) {
		t.Errorf("silent: %v", err)
	}
	_, err = w.Remote(t.Context(), named("a", "x"), secretRef("closed"))
	_, again := w.Remote(t.Context(), named("a", "x"), secretRef("closed"))
	if !errors.Is(err, ErrUnreachable) || err.Error() != again.Error() || !strings.Contains(err.Error(), "https://127.0.0.1:1") {
		t.Errorf("closed: %v, then %v", err, again)
	}
}

// A18: every connection is made by the dialer that checks addresses.
func TestA18_ClustersDialAsTold(t *testing.T) {
	forbidden := errors.New("not an address of a cluster")
	w := newWorld(t, func(o *RemoteOptions) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, forbidden }
	})
	w.secret("a", "kubeconfig", "value", w.kubeconfig(w.server.URL, "one"))
	if _, err := w.Remote(t.Context(), named("a", "x"), secretRef("kubeconfig")); !errors.Is(err, forbidden) {
		t.Errorf("error = %v, want the dialer's", err)
	}
	if asked := w.asked.Load(); asked != 0 {
		t.Errorf("the server was asked %d times", asked)
	}
}

// What the agent keeps back it keeps back from other clusters too: every request to them passes its guard.
func TestClustersAreGuarded(t *testing.T) {
	refused := errors.New("not now")
	w := newWorld(t, func(o *RemoteOptions) {
		o.Guard = func(config *rest.Config) *rest.Config {
			config.Wrap(func(http.RoundTripper) http.RoundTripper { return refusing{refused} })
			return config
		}
	})
	w.secret("ns", "kubeconfig", "value", w.kubeconfig(w.server.URL, "one"))
	if _, err := w.Remote(t.Context(), named("ns", "x"), secretRef("kubeconfig")); !errors.Is(err, refused) || w.asked.Load() != 0 {
		t.Errorf("%v after %d requests", err, w.asked.Load())
	}
}

type refusing struct{ err error }

func (r refusing) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.err }

// A ConfigMap gets the token of a ServiceAccount of its namespace, and never the agent's own.
func TestA21_ClustersOfConfigMaps(t *testing.T) {
	for name, test := range map[string]struct {
		account  string
		identity Identity
		want     error
		issued   string
	}{
		"gate off":        {"tenant", Identity{}, ErrFeatureGate, ""},
		"no account":      {"", Identity{OfServiceAccounts: true}, ErrKubeconfig, ""},
		"default account": {"", Identity{OfServiceAccounts: true, DefaultServiceAccount: "tenant"}, nil, "a/tenant for https://audience"},
		"account":         {"tenant", Identity{OfServiceAccounts: true, DefaultServiceAccount: "other"}, nil, "a/tenant for https://audience"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *RemoteOptions) { o.Identity = test.identity })
			if test.identity.OfServiceAccounts {
				auth.EnableObjectLevelWorkloadIdentity() // the library's gate is the process's
				t.Cleanup(auth.DisableObjectLevelWorkloadIdentity)
			}
			cm := &corev1.ConfigMap{Data: map[string]string{
				"provider": "generic", "address": w.server.URL, "ca.crt": string(w.ca()), "audiences": "https://audience", "serviceAccountName": test.account,
			}}
			cm.Namespace, cm.Name = "a", "cluster"
			account := &corev1.ServiceAccount{}
			account.Namespace, account.Name = "a", "tenant"
			w.secrets.objects = append(w.secrets.objects, cm, account)
			_, err := w.Remote(t.Context(), named("a", "x"), meta.KubeConfigReference{ConfigMapRef: &meta.LocalObjectReference{Name: "cluster"}})
			if !errors.Is(err, test.want) {
				t.Fatalf("error = %v, want %v", err, test.want)
			}
			if test.want != nil {
				if len(w.secrets.issued) != 0 || w.asked.Load() != 0 {
					t.Errorf("tokens %v, %d requests", w.secrets.issued, w.asked.Load())
				}
				return
			}
			if w.bearer.Load() != "Bearer "+unsigned || len(w.secrets.issued) == 0 || w.secrets.issued[0] != test.issued {
				t.Errorf("tokens %v, sent %v", w.secrets.issued, w.bearer.Load())
			}
		})
	}
}

// A22: a name that is none is not sent to the API server.
func TestA22_AsRefusesNames(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"", "a:b", "a\nImpersonate-Group: system:masters", "../x", "UPPER"} {
		if _, err := w.own.As(named("a", name)); !errors.Is(err, ErrIdentity) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if asked := w.asked.Load(); asked != 0 {
		t.Errorf("the server was asked %d times", asked)
	}
}
