package decrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// maxKustomizations is how many kustomization files one build may reach.
const maxKustomizations = 10_000

// original is the text of an encrypted file that objects are made from.
type original struct {
	name   string
	text   []byte
	format format
}

// Sources opens the files that the generators and patches of the kustomization in dir, and of all that it builds on, are
// made from. What is opened is written to overlay, which must keep it in memory, in the place of the file. Encrypted files of objects
// are noted only: Object opens them after the build.
//
// root is the top of the source. Nothing outside of it is read: a path that leads there is left to the kustomize library,
// whose file system refuses it.
func (d *Decryptor) Sources(ctx context.Context, overlay filesys.FileSystem, root, dir string) error {
	if d == nil {
		return nil
	}
	w := &walk{Decryptor: d, overlay: overlay, root: root, seen: map[string]bool{}}
	w.enqueue(dir)
	for len(w.queue) > 0 {
		next := w.queue[0]
		w.queue = w.queue[1:]
		if err := w.kustomization(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// walk is one call of Sources. Its queue makes depth no matter, and each file and directory is seen once, so that cycles end.
type walk struct {
	*Decryptor
	overlay filesys.FileSystem
	root    string
	queue   []string
	dirs    int
	seen    map[string]bool
}

func (w *walk) enqueue(dir string) {
	dir = filepath.Clean(dir)
	// The library reads by the path that a symbolic link leads to.
	if real, file, err := w.overlay.CleanedAbs(dir); err == nil && file == "" && w.inside(real.String()) {
		dir = real.String()
	}
	if !w.inside(dir) || w.seen[dir] {
		return
	}
	w.seen[dir] = true
	w.queue = append(w.queue, dir)
}

func (w *walk) inside(path string) bool {
	rel, err := filepath.Rel(w.root, path)
	return err == nil && filepath.IsLocal(rel)
}

// relative names a file as people who know the repository do.
func (w *walk) relative(path string) string {
	if rel, err := filepath.Rel(w.root, path); err == nil {
		return rel
	}
	return filepath.Base(path)
}

func (w *walk) kustomization(ctx context.Context, dir string) error {
	if w.dirs++; w.dirs > maxKustomizations {
		return fmt.Errorf("the kustomization in %s builds on more than %d others", w.relative(dir), maxKustomizations)
	}
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		file := filepath.Join(dir, name)
		text, err := w.overlay.ReadFile(file)
		if err != nil {
			continue // the library says that there is none, or why it cannot be read
		}
		found, err := references(text)
		if err != nil {
			return fmt.Errorf("%s is not a kustomization file", w.relative(file))
		}
		for _, reference := range found {
			if err := w.follow(ctx, dir, reference); err != nil {
				return err
			}
		}
		return nil // a second file is the library's to refuse
	}
	return nil
}

// use is what a kustomization file names another file for.
type use string

const (
	useBase      use = "base"      // a directory, or a file of objects
	useEnv       use = "env"       // the variables of a generator
	useGenerator use = "generator" // the file of a generator
	usePatch     use = "patch"
)

// reference is a file that a kustomization file names.
type reference struct {
	path string
	use  use
	key  string // of a generator's file: the key that it goes under
}

// references finds what a kustomization file names, of what may be encrypted or lead on.
func references(text []byte) ([]reference, error) {
	var k types.Kustomization
	if err := yaml.Unmarshal(text, &k); err != nil {
		return nil, err
	}
	k.FixKustomization() // deprecated fields into those that replace them
	var found []reference
	for _, path := range append(k.Resources, k.Components...) {
		found = append(found, reference{path: path, use: useBase})
	}
	sources := make([]types.KvPairSources, 0, len(k.SecretGenerator)+len(k.ConfigMapGenerator))
	for _, g := range k.SecretGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, g := range k.ConfigMapGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, s := range sources {
		for _, path := range s.EnvSources {
			found = append(found, reference{path: path, use: useEnv})
		}
		for _, file := range s.FileSources {
			key, path, named := strings.Cut(file, "=")
			if !named {
				key, path = filepath.Base(file), file
			}
			found = append(found, reference{path: path, use: useGenerator, key: key})
		}
	}
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // deprecated, and in use
		found = append(found, reference{path: p.Path, use: usePatch})
	}
	for _, p := range k.PatchesStrategicMerge { //nolint:staticcheck // deprecated, and in use; a path or the patch itself
		found = append(found, reference{path: string(p), use: usePatch})
	}
	return found, nil
}

// follow opens or notes what a reference names, or queues it if it is a directory.
func (w *walk) follow(ctx context.Context, dir string, r reference) error {
	if r.path == "" || strings.Contains(r.path, "\n") || filepath.IsAbs(r.path) || remote(r.path) {
		return nil
	}
	path := filepath.Join(dir, r.path)
	if !w.inside(path) {
		return nil
	}
	switch r.use {
	case useBase:
		if w.overlay.IsDir(path) {
			w.enqueue(path)
			return nil
		}
		return w.note(path)
	case useEnv:
		return w.replace(ctx, path, formatBinary) // as it was before it was encrypted, whatever its name
	case useGenerator:
		out := formatOf(r.key)
		if out == formatBinary {
			out = formatOf(path)
		}
		return w.replace(ctx, path, out)
	case usePatch:
		return w.replace(ctx, path, formatOf(path))
	}
	return fmt.Errorf("no way to follow a %s", r.use)
}

func remote(path string) bool {
	u, err := url.Parse(path)
	return err == nil && u.Scheme != "" && u.Host != ""
}

// replace puts the opened form of a file in its place in the overlay, if it is encrypted. Two generators may want one file in
// two formats: the first decides, as in Flux.
func (w *walk) replace(ctx context.Context, path string, out format) error {
	text, in, encrypted := w.read(path)
	if !encrypted {
		return nil
	}
	plain, err := w.open(ctx, text, in, out, w.verify)
	if errors.Is(err, errNoDocument) {
		return nil
	}
	if err != nil {
		return faultOf(err, "decrypting "+w.relative(path))
	}
	if err := w.overlay.WriteFile(path, plain); err != nil {
		return fmt.Errorf("keeping %s in memory: %w", w.relative(path), err)
	}
	return nil
}

// read returns a file that was not seen before, if it looks encrypted. One that cannot be read is the library's to complain
// about.
func (w *walk) read(path string) ([]byte, format, bool) {
	if w.seen[path] {
		return nil, "", false
	}
	w.seen[path] = true
	text, err := w.overlay.ReadFile(path)
	if err != nil {
		return nil, "", false
	}
	in, encrypted := detect(text)
	return text, in, encrypted
}

// separator matches what separates YAML documents. Within a document nothing of the kind begins a line.
var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?$`)

// note keeps the text of an encrypted file of objects under its MAC. Documents that were encrypted as one file have the same
// MAC; a file may also hold several that were encrypted each on its own.
func (w *walk) note(path string) error {
	text, in, encrypted := w.read(path)
	if !encrypted || len(text) > maxBytes {
		return nil // Object says that it is too large, if it is needed
	}
	parts := [][]byte{text}
	if in == formatYAML {
		parts = splitDocuments(text)
	}
	for i := 0; i < len(parts); i++ {
		mac := macIn(parts[i], in)
		if mac == "" {
			continue
		}
		file := parts[i]
		for i+1 < len(parts) && macIn(parts[i+1], in) == mac {
			i++
			file = append(append(bytes.Clone(file), "\n---\n"...), parts[i]...)
		}
		w.originals[mac] = original{name: w.relative(path), text: file, format: in}
	}
	return nil
}

func splitDocuments(text []byte) [][]byte {
	var parts [][]byte
	begin := 0
	for _, at := range separator.FindAllIndex(text, -1) {
		parts = append(parts, text[begin:at[0]])
		begin = at[1]
	}
	parts = append(parts, text[begin:])
	filled := parts[:0]
	for _, part := range parts {
		if len(bytes.TrimSpace(part)) > 0 {
			filled = append(filled, part)
		}
	}
	return filled
}

// macIn returns the MAC in the metadata of a document, or "" if it is not encrypted or cannot be read, which Object says.
func macIn(document []byte, in format) string {
	tree, err := load(document, in)
	if err != nil {
		return ""
	}
	return tree.Metadata.MessageAuthenticationCode
}
