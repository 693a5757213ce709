package storage

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
)

// maxDecoded is how large the JSON of a release may be. A megabyte of gzip can stand for a gigabyte.
const maxDecoded = 64 << 20

// document is a release as JSON, field by field. What we do not know of it survives an update.
type document map[string]json.RawMessage

// The fields of a document that Helm 3's type does not have, or that are treated on their own.
const (
	chartField  = "chart"
	infoField   = "info"
	methodField = "apply_method"
)

// open undoes what pack does. Text that is not compressed is what Helm wrote before it compressed.
func open(data []byte) (document, error) {
	text, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return nil, errors.New("not base64")
	}
	if bytes.HasPrefix(text, []byte{0x1f, 0x8b, 0x08}) {
		if text, err = decompress(text); err != nil {
			return nil, err
		}
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, errors.New("not JSON")
	}
	return doc, nil
}

func decompress(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("not gzip")
	}
	text, err := io.ReadAll(io.LimitReader(r, maxDecoded+1))
	switch {
	case err != nil:
		return nil, errors.New("not gzip")
	case len(text) > maxDecoded:
		return nil, fmt.Errorf("more than %d MiB", maxDecoded>>20)
	}
	return text, nil
}

// pack encodes a document as Helm does, but for how hard it tries: Helm's level of compression takes twenty times as long
// on some texts, for a few hundredths of their size. So it is kept for when it makes the difference between fitting
// into limit and not.
func pack(doc document, limit int) ([]byte, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	data, err := compress(text, gzip.DefaultCompression)
	if err != nil || len(data) <= limit || len(data) > limit+limit/16 {
		return data, err
	}
	return compress(text, gzip.BestCompression)
}

func compress(text []byte, level int) ([]byte, error) {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, buf.Bytes()), nil
}

// parse makes a release of a document. What nobody could work with is an error: the SDK goes through these pointers without
// looking.
func parse(doc document) (*release.Release, Method, error) {
	rel := &release.Release{}
	method := Method("")
	for field, to := range map[string]any{
		"name": &rel.Name, infoField: &rel.Info, chartField: &rel.Chart, "config": &rel.Config, "manifest": &rel.Manifest,
		"hooks": &rel.Hooks, "version": &rel.Version, "namespace": &rel.Namespace, methodField: &method,
	} {
		raw, has := doc[field]
		if !has {
			continue
		}
		if err := json.Unmarshal(raw, to); err != nil {
			// The error would quote what it found, which may be a value of the release.
			return nil, "", fmt.Errorf("field %q is not of its type", field)
		}
	}
	if err := check(rel); err != nil {
		return nil, "", err
	}
	if method != ServerSide {
		method = ClientSide // Helm 3 writes none, and means this.
	}
	return rel, method, nil
}

func check(rel *release.Release) error {
	switch {
	case rel.Name == "":
		return errors.New("it has no name")
	case rel.Version < 1:
		return errors.New("it has no version")
	case rel.Info == nil:
		return errors.New("it has no info")
	case rel.Chart == nil || rel.Chart.Metadata == nil:
		return errors.New("it has no chart")
	case slices.Contains(rel.Hooks, nil):
		return errors.New("it has a hook that is none")
	case slices.Contains(rel.Chart.Templates, nil) || slices.Contains(rel.Chart.Files, nil):
		return errors.New("its chart has a file that is none")
	default:
		return nil
	}
}

// compose writes a release over the document it was read from, nil for a new one. The chart is given as it is to be stored.
func compose(rel *release.Release, chart json.RawMessage, before document) (document, error) {
	doc := document{}
	maps.Copy(doc, before)
	info, err := composeInfo(rel.Info, before[infoField])
	if err != nil {
		return nil, err
	}
	doc[infoField], doc[chartField] = info, chart
	fields := []struct {
		name  string
		value any
		none  bool
	}{
		{"name", rel.Name, rel.Name == ""},
		{"namespace", rel.Namespace, rel.Namespace == ""},
		{"version", rel.Version, rel.Version == 0},
		{"config", rel.Config, len(rel.Config) == 0},
		{"manifest", rel.Manifest, rel.Manifest == ""},
		{"hooks", toWireHooks(rel.Hooks), len(rel.Hooks) == 0},
	}
	for _, f := range fields {
		if f.none {
			delete(doc, f.name)
			continue
		}
		if doc[f.name], err = json.Marshal(f.value); err != nil {
			return nil, fmt.Errorf("encoding the %s of a release: %w", f.name, err)
		}
	}
	return doc, nil
}

// infoFields are those of wireInfo.
var infoFields = []string{"first_deployed", "last_deployed", "deleted", "description", "status", "notes", "resources"}

// composeInfo writes what we know of a release's info over what it was.
func composeInfo(info *release.Info, before json.RawMessage) (json.RawMessage, error) {
	ours, err := json.Marshal(toWireInfo(info))
	if err != nil {
		return nil, fmt.Errorf("encoding the info of a release: %w", err)
	}
	if before == nil {
		return ours, nil
	}
	merged := document{}
	if err := json.Unmarshal(before, &merged); err != nil {
		return ours, nil //nolint:nilerr // It was no object, so there is nothing in it to keep.
	}
	for _, field := range infoFields {
		delete(merged, field)
	}
	if len(merged) == 0 {
		return ours, nil
	}
	if err := json.Unmarshal(ours, &merged); err != nil {
		return nil, err
	}
	return json.Marshal(merged)
}

func marshalChart(c *chart.Chart) (json.RawMessage, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding the chart of a release: %w", err)
	}
	return text, nil
}
