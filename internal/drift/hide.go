package drift

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

// Hider replaces what is secret by a keyed hash before anything is compared or told: equal values stay equal, different ones
// different, and without the key, which never leaves the process, nobody can try values (faults.md A29–A31).
type Hider struct {
	key [32]byte
	// Also are objects whose values must not be told wherever they stand: what was decrypted for a build.
	Also []*unstructured.Unstructured
}

// NewHider returns a Hider with a key of its own.
func NewHider() Hider {
	var h Hider
	rand.Read(h.key[:]) // never fails
	return h
}

// With returns the Hider that hides the values of these objects too.
func (h Hider) With(also ...*unstructured.Unstructured) Hider {
	h.Also = also
	return h
}

// both masks two objects in place, each by what is secret in either.
func (h Hider) both(a, b *unstructured.Unstructured) {
	secrets := append([]*unstructured.Unstructured{a.DeepCopy(), b.DeepCopy()}, h.Also...)
	for _, u := range []*unstructured.Unstructured{a, b} {
		secret := isSecret(u)
		for _, key := range keysOf(u.Object) {
			if secret && (key == "data" || key == "stringData") {
				u.Object[key] = h.within(u.Object[key])
				continue
			}
			u.Object[key] = h.mask(key, u.Object[key], secrets)
		}
		h.maskApplied(u)
	}
}

func isSecret(u *unstructured.Unstructured) bool {
	return u.GetKind() == "Secret" && u.GroupVersionKind().Group == ""
}

// maskApplied takes out the copy of the whole object that kubectl leaves: nothing is declared about it, and an apply takes it off.
func (h Hider) maskApplied(u *unstructured.Unstructured) {
	unstructured.RemoveNestedField(u.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
}

// within masks all values of what is secret as a whole.
func (h Hider) within(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return h.hash(v)
	}
	out := make(map[string]any, len(m))
	for key, value := range m {
		out[key] = h.hash(value)
	}
	return out
}

// mask masks the strings within a value that are secret by their name, by what they look like, or because they hold a secret
// that is known.
func (h Hider) mask(name string, v any, secrets []*unstructured.Unstructured) any {
	switch v := v.(type) {
	case map[string]any:
		if item, ok := v["name"].(string); ok && secretName(item) { // env: [{name: PASSWORD, value: …}]
			if value, ok := v["value"].(string); ok {
				v["value"] = h.hash(value)
			}
		}
		for key, value := range v {
			v[key] = h.mask(key, value, secrets)
		}
	case []any:
		for i, item := range v {
			v[i] = h.mask(name, item, secrets)
		}
	case string:
		if v != "" && !strings.HasPrefix(v, hashed) && (secretName(name) || secretLooking(v) || object.MaskText(v, secrets...) != v) {
			return h.hash(v)
		}
	}
	return v
}

// What is called so holds a secret, unless its name goes on to say that it only points to one. To mask too much costs a reader
// something, to mask too little costs everybody.
var (
	namedSecret = regexp.MustCompile(`(?i)(passw|passphrase|pwd|pass$|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization|connection[-_]?string)`)
	pointsTo    = regexp.MustCompile(`(?i)(name|ref|namespace|kind|path|class|type|policy|mode|version|provider|store|audiences?|refs|names)$`)
	looksSecret = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@\s:]*:[^/@\s]+@|[?&](sig|signature|token|access_token|X-Amz-Signature)=|^eyJ[A-Za-z0-9_-]{10,}\.eyJ`)
)

// secretName says whether a field of that name holds a secret, rather than the name of one.
func secretName(name string) bool {
	return namedSecret.MatchString(name) && !pointsTo.MatchString(name)
}

// secretLooking says whether a text is or holds a secret by its form: a private key, a password in a URL, a signed URL, a token.
func secretLooking(text string) bool { return looksSecret.MatchString(text) }

// hashed begins what stands for a secret.
const hashed = object.Mask + " ("

// hash stands for a value.
func (h Hider) hash(v any) string {
	text, ok := v.(string)
	if !ok {
		encoded, err := json.Marshal(v)
		if err != nil {
			return object.Mask
		}
		text = string(encoded)
	}
	mac := hmac.New(sha256.New, h.key[:])
	mac.Write([]byte(text))
	return hashed + hex.EncodeToString(mac.Sum(nil)[:4]) + ")"
}
