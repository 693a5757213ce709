package object

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/types"
)

var pageOwner = types.NamespacedName{Namespace: "demo", Name: "shop"}

func manyRefs(n int) []Ref {
	refs := make([]Ref, n)
	for i := range refs {
		refs[i] = Ref{
			Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding",
			Namespace: fmt.Sprintf("tenant-with-a-long-name-%d", i%97), Name: fmt.Sprintf("system:reader:of-something-%d", i),
		}
	}
	Sort(refs)
	return refs
}

// F50: an inventory of 30,000 objects fits into a status and pages that etcd takes, and what is read back is what was
// written.
func TestF50_Paginate(t *testing.T) {
	const limit = 500_000
	for _, n := range []int{0, 1, 3_000, 5_000, 30_000} {
		refs := manyRefs(n)
		kept, pages := Paginate(pageOwner, refs, limit)
		if size(kept) > limit {
			t.Errorf("%d objects: %d bytes stay in the status", n, size(kept))
		}
		all := kept
		for _, page := range pages {
			if len(page.Content) > limit {
				t.Errorf("%d objects: a page of %d bytes", n, len(page.Content))
			}
			read, err := ParsePage(pageOwner, page.Name, page.Content)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(page, read); diff != "" {
				t.Fatalf("page (-written +read):\n%s", diff)
			}
			all = Union(all, read.Refs)
		}
		if len(all) != n || len(Subtract(refs, all)) > 0 {
			t.Errorf("%d objects became %d", n, len(all))
		}
		t.Logf("%d objects: %d in the status, %d pages", n, len(kept), len(pages))
	}
}

// One object more changes one page.
func TestPaginateMovesLittle(t *testing.T) {
	refs := manyRefs(20_000)
	_, before := Paginate(pageOwner, refs[1:], 500_000)
	_, after := Paginate(pageOwner, refs, 500_000)
	was := map[string]bool{}
	for _, page := range before {
		was[page.Name] = true
	}
	moved := 0
	for _, page := range after {
		if !was[page.Name] {
			moved++
		}
	}
	if len(before) != len(after) || moved > 1 {
		t.Errorf("%d of %d pages changed for one object", moved, len(after))
	}
}

// A limit that no entry fits into still ends, with nothing lost.
func TestPaginateTiny(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		refs := manyRefs(random.IntN(20))
		kept, pages := Paginate(pageOwner, refs, 1+random.IntN(400))
		for _, page := range pages {
			kept = Union(kept, page.Refs)
		}
		if diff := cmp.Diff(refs, Union(kept, nil)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func TestPageNames(t *testing.T) {
	long := types.NamespacedName{Namespace: "demo", Name: strings.Repeat("a", 176) + ".-" + strings.Repeat("b", 60)}
	for _, owner := range []types.NamespacedName{pageOwner, long, {Namespace: "demo", Name: "a.b"}} {
		page := newPage(owner, manyRefs(3))
		if problems := content.IsDNS1123Subdomain(page.Name); len(problems) > 0 {
			t.Errorf("%s: %v", page.Name, problems)
		}
		if !IsPage(owner, PageRef(owner, page.Name)) {
			t.Errorf("%s is not known as a page", page.Name)
		}
	}
	page := newPage(pageOwner, manyRefs(3))
	for name, ref := range map[string]Ref{
		"another namespace": {Version: "v1", Kind: "ConfigMap", Namespace: "other", Name: page.Name},
		"another kind":      {Version: "v1", Kind: "Secret", Namespace: "demo", Name: page.Name},
		"another owner's":   PageRef(pageOwner, newPage(types.NamespacedName{Namespace: "demo", Name: "other"}, manyRefs(3)).Name),
		"no digest":         PageRef(pageOwner, "shop-inventory-old"),
	} {
		if IsPage(pageOwner, ref) {
			t.Errorf("%s is taken for a page", name)
		}
	}
	other := newPage(types.NamespacedName{Namespace: "demo", Name: "shop.x"}, manyRefs(3))
	for name, text := range map[string]string{
		"a line less":     page.Content[:strings.LastIndex(strings.TrimSuffix(page.Content, "\n"), "\n")+1],
		"another content": other.Content,
		"nothing":         "",
	} {
		if _, err := ParsePage(pageOwner, page.Name, text); err == nil {
			t.Errorf("%s is believed", name)
		}
	}
}
