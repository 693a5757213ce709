// Package helm serves HelmRepository and HelmChart.
//
// A repository's index is read as a stream, one chart version at a time: what is published is the same index in the form
// that Flux stores (sorted, as JSON), and what is kept in memory is a lookup of names, versions, URLs and digests, one per
// digest of an index, which all HelmCharts share. A chart is read from a repository, a registry or another source's
// snapshot; it is published as it came unless values files, dependencies or a revision ask for it to be packaged anew.
package helm
