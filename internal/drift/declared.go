package drift

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

// blockSize is how many bytes of JSON are packed together. Objects of one owner are alike: together they take a tenth or less of
// what they take apart, and one is had again within a millisecond.
const blockSize = 64 << 10

// declared is what was applied for one owner, packed, in memory alone: it may hold what was decrypted. The zero value is
// nothing.
type declared struct {
	refs   []object.Ref // in the order of their keys
	blocks []block      // none when there was no room
	also   []byte       // packed: what must not be told
}

// block holds consecutive objects, a line of JSON each.
type block struct {
	first  int // index of the first one in refs
	packed []byte
}

func compareKeys(a, b object.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
}

// pack packs objects, and what must not be told of them.
func pack(objects []*unstructured.Unstructured, also *unstructured.Unstructured) (*declared, error) {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(a, b *unstructured.Unstructured) int {
		return compareKeys(object.RefOf(a).Key(), object.RefOf(b).Key())
	})
	d := &declared{refs: make([]object.Ref, 0, len(sorted))}
	p := newPacker()
	first := 0
	var text bytes.Buffer
	for i, u := range sorted {
		d.refs = append(d.refs, object.RefOf(u))
		line, err := json.Marshal(u.Object)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", object.RefOf(u), err)
		}
		text.Write(line)
		text.WriteByte('\n')
		if text.Len() >= blockSize || i == len(sorted)-1 {
			packed, err := p.pack(text.Bytes())
			if err != nil {
				return nil, err
			}
			d.blocks = append(d.blocks, block{first: first, packed: packed})
			first = i + 1
			text.Reset()
		}
	}
	if also != nil {
		line, err := json.Marshal(also.Object)
		if err != nil {
			return nil, errors.New("encoding what must not be told") // and the cause might
		}
		if d.also, err = p.pack(line); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// packer compresses. Its tables are large, so one is used for all blocks.
type packer struct {
	out bytes.Buffer
	to  *flate.Writer
}

func newPacker() *packer {
	to, err := flate.NewWriter(io.Discard, flate.DefaultCompression)
	if err != nil {
		panic("a level of compression that does not exist: " + err.Error())
	}
	return &packer{to: to}
}

func (p *packer) pack(text []byte) ([]byte, error) {
	p.out.Reset()
	p.to.Reset(&p.out)
	if _, err := p.to.Write(text); err != nil {
		return nil, fmt.Errorf("packing objects: %w", err)
	}
	if err := p.to.Close(); err != nil {
		return nil, fmt.Errorf("packing objects: %w", err)
	}
	return bytes.Clone(p.out.Bytes()), nil
}

func unpack(packed []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
}

// size is how many bytes are packed.
func (d *declared) size() int {
	n := len(d.also)
	for _, b := range d.blocks {
		n += len(b.packed)
	}
	return n
}

// find returns where in refs an object is.
func (d *declared) find(key object.Key) (int, bool) {
	return slices.BinarySearchFunc(d.refs, key, func(r object.Ref, key object.Key) int { return compareKeys(r.Key(), key) })
}

// load returns an object by its place in refs; nil when there was no room for it.
func (d *declared) load(i int) (*unstructured.Unstructured, error) {
	if len(d.blocks) == 0 {
		return nil, nil
	}
	b, found := slices.BinarySearchFunc(d.blocks, i, func(b block, i int) int { return cmp.Compare(b.first, i) })
	if !found {
		b--
	}
	text, err := unpack(d.blocks[b].packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", d.refs[i], err)
	}
	for range i - d.blocks[b].first {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(line); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", d.refs[i], object.MaskError(err))
	}
	return u, nil
}

// all returns every object; none when there was no room.
func (d *declared) all() ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, b := range d.blocks {
		text, err := unpack(b.packed)
		if err != nil {
			return nil, fmt.Errorf("unpacking what was applied: %w", err)
		}
		for line := range bytes.Lines(text) {
			u := &unstructured.Unstructured{}
			if err := u.UnmarshalJSON(line); err != nil {
				return nil, errors.New("what was applied cannot be decoded")
			}
			out = append(out, u)
		}
	}
	return out, nil
}

// hidden returns what must not be told; nil when there is nothing.
func (d *declared) hidden() *unstructured.Unstructured {
	if len(d.also) == 0 {
		return nil
	}
	text, err := unpack(d.also)
	u := &unstructured.Unstructured{}
	if err != nil || json.Unmarshal(text, &u.Object) != nil {
		return nil
	}
	return u
}
