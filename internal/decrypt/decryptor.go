package decrypt

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"

	"github.com/cleat-dev/cleat/internal/api"
)

// Annotation is set to api.Disabled on an object that is to be left as it is.
const Annotation = api.OwnerGroup + "/decrypt"

// Disabled reports whether an object with these annotations is left as it is.
func Disabled(annotations map[string]string) bool {
	return strings.EqualFold(annotations[Annotation], api.Disabled)
}

// Decryptor opens the documents of one build: first the sources of generators and patches, then the objects. What it opens
// it writes nowhere but where it is told to. It is not for concurrent use, and lives no longer than its build: it keeps the
// values it has opened, so that errors can be masked by them.
type Decryptor struct {
	keys   *keyring
	verify bool
	digest string

	dataKeys  map[string][]byte   // opened: by what they are encrypted as
	originals map[string]original // found by Sources: by the MAC of their metadata
	values    map[string]struct{} // opened
}

func newDecryptor(keys *keyring, verify bool) *Decryptor {
	return &Decryptor{
		keys: keys, verify: verify,
		dataKeys: map[string][]byte{}, originals: map[string]original{}, values: map[string]struct{}{},
	}
}

// Digest identifies the keys, and what else decides what can be opened: a build that was made with another digest may be
// another build.
func (d *Decryptor) Digest() string {
	if d == nil {
		return ""
	}
	return d.digest
}

// yamlIndicators are the characters that the YAML parser may drop from a value that it quotes in an error.
const yamlIndicators = "*&!|>%@`\"'{}[],#?:- \t"

// Sensitive returns an object that is never applied: it has the values that were opened so far, in the form in which
// object.MaskError looks for values of Secrets. They may have gone into objects that are no Secrets. It is nil when there
// are none.
func (d *Decryptor) Sensitive() *unstructured.Unstructured {
	if d == nil || len(d.values) == 0 {
		return nil
	}
	data := make(map[string]any, 2*len(d.values))
	for i, value := range slices.Sorted(maps.Keys(d.values)) {
		data[strconv.Itoa(i)] = value
		data[strconv.Itoa(i)+"-bare"] = strings.Trim(value, yamlIndicators)
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": data}}
}

// Objects opens every encrypted object of a build, and every encrypted value of its Secrets.
func (d *Decryptor) Objects(ctx context.Context, built resmap.ResMap) error {
	if d == nil {
		return nil
	}
	for _, r := range built.Resources() {
		if _, err := d.Object(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Object opens one object of a build in place, and reports whether there was anything to open.
func (d *Decryptor) Object(ctx context.Context, r *resource.Resource) (bool, error) {
	if d == nil || Disabled(r.GetAnnotations()) {
		return false, nil
	}
	mac, encrypted := macOf(r)
	var changed bool
	var err error
	switch {
	case encrypted:
		changed, err = true, d.whole(ctx, r, mac)
	case r.GetKind() == "Secret":
		changed, err = d.data(ctx, r)
	}
	if err != nil {
		return false, faultOf(err, "decrypting "+nameOf(r))
	}
	return changed, nil
}

// macOf returns the MAC in the SOPS metadata of an object; without one the object is not encrypted.
func macOf(r *resource.Resource) (string, bool) {
	metadata := r.Field("sops")
	if metadata.IsNilOrEmpty() {
		return "", false
	}
	mac := metadata.Value.Field("mac")
	if mac.IsNilOrEmpty() {
		return "", false
	}
	return mac.Value.YNode().Value, true
}

func nameOf(r *resource.Resource) string {
	if namespace := r.GetNamespace(); namespace != "" {
		return r.GetKind() + "/" + namespace + "/" + r.GetName()
	}
	return r.GetKind() + "/" + r.GetName()
}

// whole opens an object that is encrypted as one document.
//
// Its MAC is over the file that it was written in, in that order and with everything else in that file, of which kustomize
// has left neither: so it is the file that is verified, found by its MAC. An object of no file of this build (a remote base,
// a generator of objects) must fit its own MAC.
func (d *Decryptor) whole(ctx context.Context, r *resource.Resource, mac string) error {
	verify := d.verify
	if from, found := d.originals[mac]; found && verify {
		if _, err := d.open(ctx, from.text, from.format, from.format, true); err != nil {
			return fmt.Errorf("%s: %w", from.name, err)
		}
		verify = false
	}
	text, err := r.MarshalJSON()
	if err != nil {
		return errors.New("the object cannot be written as JSON")
	}
	plain, err := d.open(ctx, text, formatJSON, formatJSON, verify)
	if err != nil {
		return err
	}
	if err := r.UnmarshalJSON(plain); err != nil {
		return errors.New("what was encrypted is not an object") // the library's text could quote it
	}
	return nil
}

// data opens the values of a Secret that are documents, as a generator makes them from encrypted files.
func (d *Decryptor) data(ctx context.Context, r *resource.Resource) (bool, error) {
	values := r.GetDataMap()
	changed := false
	for _, key := range slices.Sorted(maps.Keys(values)) {
		text, err := base64.StdEncoding.DecodeString(values[key])
		if err != nil {
			continue // the API server says so
		}
		in, encrypted := detect(text)
		if !encrypted {
			continue
		}
		plain, err := d.open(ctx, text, in, formatOf(key), d.verify)
		if errors.Is(err, errNoDocument) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("key %s: %w", key, err)
		}
		values[key] = base64.StdEncoding.EncodeToString(plain)
		changed = true
	}
	if changed {
		r.SetDataMap(values)
	}
	return changed, nil
}

// faultOf says what makes it worth trying again: a server that did not answer may do so soon, while a document or a key that
// does not fit waits for somebody to change it.
func faultOf(err error, doing string) error {
	retry := api.RetryInterval
	var away *unavailableError
	if errors.As(err, &away) || errors.Is(err, context.DeadlineExceeded) {
		retry = api.RetryBackoff
	}
	return api.Faultf(meta.BuildFailedReason, retry, "%s: %w", doing, err)
}

// remember keeps a value that was opened, to mask errors by. What is only one of few possible values is no secret.
func (d *Decryptor) remember(value any) {
	switch v := value.(type) {
	case string:
		d.rememberText(v)
	case []byte:
		d.rememberText(string(v))
	case int:
		d.rememberText(strconv.Itoa(v))
	case float64:
		d.rememberText(strconv.FormatFloat(v, 'f', -1, 64))
	}
}

// assignment matches a line that gives a name a value, as most files of settings have them.
var assignment = regexp.MustCompile(`(?m)^[^\n=:]*[=:][ \t]*(\S.*?)[ \t\r,;]*$`)

// rememberText keeps a text, and if it is a file encrypted as one value, what its lines assign too: that is what errors quote.
func (d *Decryptor) rememberText(text string) {
	if text == "" {
		return
	}
	d.values[text] = struct{}{}
	if !strings.ContainsAny(text, "=:") {
		return
	}
	for _, found := range assignment.FindAllStringSubmatch(text, -1) {
		if value := strings.Trim(found[1], yamlIndicators); len(value) >= minAssigned {
			d.values[value] = struct{}{}
		}
	}
}

// minAssigned is how long a value within a file is at least, to be masked: below, words like "true" and "server" would be.
const minAssigned = 8
