package storage

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Method is how the objects of a release were applied. Helm 4 keeps it with each release: the next one is applied the same
// way unless its HelmRelease says otherwise.
type Method string

const (
	// ServerSide: by server-side apply.
	ServerSide Method = "ssa"
	// ClientSide: by a three-way merge here. A release that says nothing was applied so.
	ClientSide Method = "csa"
)

// secretType is the type of the Secrets, releaseKey the one key of their data.
const (
	secretType = "helm.sh/release.v1"
	releaseKey = "release"
)

// Release is one revision, as it is stored. Its chart and values are shared and must not be changed; its Info and Hooks
// are the caller's.
type Release struct {
	*release.Release
	Method Method
}

// copyOf returns a release that can be changed in what changes in the life of a revision: status and hook runs.
func copyOf(rel *release.Release) *release.Release {
	out := *rel
	info := *rel.Info
	out.Info = &info
	out.Hooks = nil
	for _, hook := range rel.Hooks {
		h := *hook
		out.Hooks = append(out.Hooks, &h)
	}
	return &out
}

// Header is what the metadata of a storage Secret tells of a revision.
type Header struct {
	Version int
	Status  release.Status
}

// record is what is known of one revision.
type record struct {
	Header
	meta metav1.ObjectMeta
	// data is the release as read, until it is decoded; nil before it is read, too.
	data []byte
	// release is what it holds, or corrupt says why nothing.
	release *Release
	corrupt *CorruptError
	doc     document
}

// Key returns the name of the Secret that holds a revision.
func Key(name string, version int) string {
	return fmt.Sprintf("%s.%s.v%d", storage.HelmStorageType, name, version)
}

// versionOf returns the revision that a Secret of this name holds of the release.
func versionOf(secret, name string) (int, bool) {
	suffix, ok := strings.CutPrefix(secret, storage.HelmStorageType+"."+name+".v")
	if !ok {
		return 0, false
	}
	version, err := strconv.Atoi(suffix)
	return version, err == nil && version > 0 && Key(name, version) == secret
}

func newRecord(meta metav1.ObjectMeta, version int) *record {
	meta.ManagedFields = nil
	return &record{Header: Header{Version: version, Status: release.Status(meta.Labels["status"])}, meta: meta}
}

// decode reads the release, once.
func (r *record) decode(name string) {
	if r.release != nil || r.corrupt != nil {
		return
	}
	rel, err := r.read(name)
	if err != nil {
		r.corrupt = &CorruptError{Secret: r.meta.Name, Err: err}
	}
	r.release, r.data = rel, nil
}

func (r *record) read(name string) (*Release, error) {
	doc, err := open(r.data)
	if err != nil {
		return nil, err
	}
	rel, method, err := parse(doc)
	if err != nil {
		return nil, err
	}
	if rel.Name != name || rel.Version != r.Version {
		return nil, errors.New("it is another release's, or another revision")
	}
	rel.Labels = customLabels(r.meta.Labels)
	r.doc = doc
	return &Release{Release: rel, Method: method}, nil
}

// customLabels are those that are not Helm's own.
func customLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		if !driver.ContainsSystemLabels(map[string]string{key: value}) {
			out[key] = value
		}
	}
	return out
}
