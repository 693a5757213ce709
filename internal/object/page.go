package object

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Page is a part of an inventory that has no room in a status. It is kept in an immutable ConfigMap whose name is the digest
// of its content, so that whoever reads it knows whether it is what was written.
type Page struct {
	// Name is that of the ConfigMap, in the namespace of the inventory's owner.
	Name string
	// Content is one line an object, `<id> <version>`, after a line that names the owner: two owners never share a page.
	Content string
	Refs    []Ref
}

// fill is how full pages are made, in percent: room for what differs between them, and for what is added later.
const fill = 80

// overhead is what JSON adds to an entry of an inventory: `{"id":"","v":""},`.
const overhead = 17

// Paginate splits the inventory of owner into what a status keeps, at most limit bytes, and pages of at most as much each.
// All of it is kept when it fits.
//
// Where an object goes is decided by a hash of its id and not by its place in the order, so that one object more or less
// changes one page and not all that follow.
func Paginate(owner types.NamespacedName, refs []Ref, limit int) (kept []Ref, pages []Page) {
	if size(refs) <= limit {
		return refs, nil
	}
	parts := split(refs, 1+size(refs)*100/(limit*fill))
	for n := len(parts) + 1; !fits(parts, limit) && n <= len(refs); n++ {
		parts = split(refs, n)
	}
	for _, part := range parts[1:] {
		if len(part) > 0 {
			pages = append(pages, newPage(owner, part))
		}
	}
	return parts[0], pages
}

func size(refs []Ref) int {
	sum := 0
	for _, r := range refs {
		sum += len(r.ID()) + len(r.Version) + overhead
	}
	return sum
}

func split(refs []Ref, n int) [][]Ref {
	parts := make([][]Ref, n)
	for _, r := range refs {
		hash := fnv.New64a()
		hash.Write([]byte(r.ID())) // never fails
		i := hash.Sum64() % uint64(n)
		parts[i] = append(parts[i], r)
	}
	return parts
}

// fits says whether every part that holds more than one object is small enough.
func fits(parts [][]Ref, limit int) bool {
	for _, part := range parts {
		if len(part) > 1 && size(part) > limit {
			return false
		}
	}
	return true
}

func newPage(owner types.NamespacedName, refs []Ref) Page {
	var content strings.Builder
	fmt.Fprintf(&content, "%s\n", owner)
	for _, r := range refs {
		fmt.Fprintf(&content, "%s %s\n", r.ID(), r.Version)
	}
	return Page{Name: pageName(owner, content.String()), Content: content.String(), Refs: refs}
}

// maxPrefix leaves room for the digest in a name of 253 bytes.
const maxPrefix = 253 - len("-inventory-") - 2*sha256.Size

func pageName(owner types.NamespacedName, content string) string {
	sum := sha256.Sum256([]byte(content))
	return pagePrefix(owner) + hex.EncodeToString(sum[:])
}

func pagePrefix(owner types.NamespacedName) string {
	name := owner.Name[:min(len(owner.Name), maxPrefix)]
	return strings.TrimRight(name, ".-") + "-inventory-"
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// IsPage says whether a ref has the name that a page of this owner's inventory would have. Only its content can tell whether
// it is one.
func IsPage(owner types.NamespacedName, r Ref) bool {
	digest, ok := strings.CutPrefix(r.Name, pagePrefix(owner))
	return ok && r.Group == "" && r.Kind == "ConfigMap" && r.Namespace == owner.Namespace && sha256Hex.MatchString(digest)
}

// PageRef names the ConfigMap of a page.
func PageRef(owner types.NamespacedName, name string) Ref {
	return Ref{Version: "v1", Kind: "ConfigMap", Namespace: owner.Namespace, Name: name}
}

// ParsePage returns the page of that name with this content. It is an error when the content does not fit the name: then
// nothing of it may be believed.
func ParsePage(owner types.NamespacedName, name, content string) (Page, error) {
	if pageName(owner, content) != name {
		return Page{}, fmt.Errorf("the content of ConfigMap/%s/%s is not what its name says", owner.Namespace, name)
	}
	page := Page{Name: name, Content: content}
	for i, line := range strings.Split(strings.TrimSuffix(content, "\n"), "\n") {
		if i == 0 {
			continue // the owner
		}
		id, version, _ := strings.Cut(line, " ")
		r, err := ParseRef(id, version)
		if err != nil {
			return Page{}, fmt.Errorf("ConfigMap/%s/%s: %w", owner.Namespace, name, err)
		}
		page.Refs = append(page.Refs, r)
	}
	return page, nil
}
