package storage

import (
	"encoding/json"
	"errors"
	"fmt"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
)

// secretLimit is how large a release may be as encoded. The API server takes Secrets of up to 1 MiB. What is checked
// before an action grows while it goes on: its hooks run, and why it failed is written into it.
const secretLimit = 1<<20 - 32<<10

// encoded is a release ready to be stored.
type encoded struct {
	doc  document
	data []byte
	// dropped are the files of the chart that had to be left out.
	dropped []string
}

// Check says whether a release that an action is going to create will fit into its Secret, a *TooLargeError if not. It is
// for before anything is changed: a release that cannot be recorded must not be made. If it fits only without those of the
// chart's files that templates do not use, these are returned, sorted, and will not be stored.
func (d *Driver) Check(rel *release.Release) (dropped []string, err error) {
	d.revisions.mu.Lock()
	defer d.revisions.mu.Unlock()
	before, err := d.newDocument()
	if err != nil {
		return nil, err
	}
	enc, err := d.encode(rel, before)
	return enc.dropped, err
}

// newDocument returns what is in a new revision beside what the SDK knows of it.
func (d *Driver) newDocument() (document, error) {
	method, err := json.Marshal(d.operation.Method)
	if err != nil {
		return nil, fmt.Errorf("encoding a release: %w", err)
	}
	return document{methodField: method}, nil
}

// encode makes of a release what is stored, without the chart's unused files if there is no room for them. It is called with
// the revisions' mu held.
func (d *Driver) encode(rel *release.Release, before document) (encoded, error) {
	if rel.Info == nil || rel.Chart == nil {
		return encoded{}, errors.New("encoding a release: it has no info or no chart")
	}
	text, err := d.chartText(rel.Chart)
	if err != nil {
		return encoded{}, err
	}
	whole, err := encodeWith(rel, text, before)
	if err != nil || len(whole.data) <= secretLimit {
		return whole, err
	}
	trimmed, dropped := withoutUnused(d.original(rel.Chart))
	if len(dropped) == 0 {
		return encoded{}, &TooLargeError{Size: len(whole.data), Limit: secretLimit}
	}
	if text, err = marshalChart(trimmed); err != nil {
		return encoded{}, err
	}
	less, err := encodeWith(rel, text, before)
	if err != nil {
		return encoded{}, err
	}
	if len(less.data) > secretLimit {
		return encoded{}, &TooLargeError{Size: len(less.data), Limit: secretLimit}
	}
	less.dropped = dropped
	return less, nil
}

func encodeWith(rel *release.Release, chartText json.RawMessage, before document) (encoded, error) {
	doc, err := compose(rel, chartText, before)
	if err != nil {
		return encoded{}, err
	}
	data, err := pack(doc, secretLimit)
	if err != nil {
		return encoded{}, fmt.Errorf("encoding revision %d of release %s: %w", rel.Version, rel.Name, err)
	}
	return encoded{doc: doc, data: data}, nil
}

// chartText returns the chart of a release as it is stored.
func (d *Driver) chartText(c *chart.Chart) (json.RawMessage, error) {
	if text, ok := d.revisions.charts[c]; ok {
		return text, nil
	}
	text, err := marshalChart(d.original(c))
	if err != nil {
		return nil, err
	}
	d.revisions.charts[c], d.revisions.charts[d.original(c)] = text, text
	return text, nil
}

// original returns the chart to store for one that the SDK has been given.
func (d *Driver) original(c *chart.Chart) *chart.Chart {
	if c != nil && c == d.operation.Rendered && d.operation.Chart != nil {
		return d.operation.Chart
	}
	return c
}
