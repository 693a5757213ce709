package object

import (
	"slices"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
)

func TestRefID(t *testing.T) {
	for _, tt := range []struct {
		id, version, text string
		ref               Ref
	}{
		{"shop_web_apps_Deployment", "v1", "Deployment/shop/web", Ref{"apps", "v1", "Deployment", "shop", "web"}},
		{"_shop__Namespace", "v1", "Namespace/shop", Ref{"", "v1", "Namespace", "", "shop"}},
		{
			"_system__node_rbac.authorization.k8s.io_ClusterRole", "v1", "ClusterRole/system:node",
			Ref{"rbac.authorization.k8s.io", "v1", "ClusterRole", "", "system:node"},
		},
		{
			"_widgets.example.com_apiextensions.k8s.io_CustomResourceDefinition", "v1", "CustomResourceDefinition/widgets.example.com",
			Ref{"apiextensions.k8s.io", "v1", "CustomResourceDefinition", "", "widgets.example.com"},
		},
	} {
		t.Run(tt.id, func(t *testing.T) {
			got, err := ParseRef(tt.id, tt.version)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.ref {
				t.Errorf("ParseRef = %+v, want %+v", got, tt.ref)
			}
			if id := tt.ref.ID(); id != tt.id {
				t.Errorf("ID() = %q", id)
			}
			if s := tt.ref.String(); s != tt.text {
				t.Errorf("String() = %q, want %q", s, tt.text)
			}
		})
	}
}

func TestParseRefRefuses(t *testing.T) {
	for _, id := range []string{"", "web", "shop_web", "shop_web_apps", "shop__apps_Deployment", "shop_web_apps_"} {
		if ref, err := ParseRef(id, "v1"); err == nil {
			t.Errorf("ParseRef(%q) = %+v, want an error", id, ref)
		} else if !strings.Contains(err.Error(), "inventory id") {
			t.Errorf("ParseRef(%q): %v does not say what is wrong", id, err)
		}
	}
}

// The entries are the inventory of Kustomization demo/shop as kustomize-controller 1.9 wrote it.
func TestInventoryIsOrderedAsFluxDoes(t *testing.T) {
	inventory := &kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{
		{ID: "_shop__Namespace", Version: "v1"},
		{ID: "_shop__reader_rbac.authorization.k8s.io_ClusterRole", Version: "v1"},
		{ID: "shop_plain__ConfigMap", Version: "v1"},
		{ID: "shop_settings-747dfcb89d__ConfigMap", Version: "v1"},
		{ID: "shop_shop_apps_Deployment", Version: "v1"},
	}}
	refs, err := FromInventory(inventory)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(refs)
	if diff := cmp.Diff(inventory, ToInventory(refs)); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
}

func TestFromInventoryNamesWhatItCannotRead(t *testing.T) {
	refs, err := FromInventory(&kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{
		{ID: "nonsense", Version: "v1"}, {ID: "a_b__ConfigMap", Version: "v1"},
	}})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error = %v, want one that names the entry", err)
	}
	if len(refs) != 1 {
		t.Errorf("refs = %v, want the one that can be read", refs)
	}
}

func TestSets(t *testing.T) {
	configMap := func(version, name string) Ref {
		return Ref{Version: version, Kind: "ConfigMap", Namespace: "n", Name: name}
	}
	webhook := Ref{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration", Name: "w"}
	crd := Ref{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition", Name: "c"}
	a := []Ref{webhook, configMap("v2", "x")}
	b := []Ref{configMap("v1", "x"), configMap("v1", "a"), crd}

	want := []Ref{crd, configMap("v1", "a"), configMap("v2", "x"), webhook}
	if diff := cmp.Diff(want, Union(a, b)); diff != "" {
		t.Errorf("Union (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Ref{webhook}, Subtract(a, b)); diff != "" {
		t.Errorf("Subtract (-want +got):\n%s", diff)
	}
	if got := Subtract(Union(a, b), Union(b, a)); len(got) != 0 {
		t.Errorf("a set without itself = %v", got)
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("shop_web_apps_Deployment")
	f.Add("_system__node_rbac.authorization.k8s.io_ClusterRole")
	f.Fuzz(func(t *testing.T, id string) {
		ref, err := ParseRef(id, "v1")
		if err != nil {
			return
		}
		if ref.Name == "" || ref.Kind == "" {
			t.Fatalf("ParseRef(%q) = %+v", id, ref)
		}
		if strings.Contains(id, ":") || strings.Contains(id, "___") {
			return // No object can be called that, and the encoding is not one to one there.
		}
		if again, err := ParseRef(ref.ID(), "v1"); err != nil || again != ref {
			t.Fatalf("%q is read as %+v, and its id %q as %+v, %v", id, ref, ref.ID(), again, err)
		}
	})
}
