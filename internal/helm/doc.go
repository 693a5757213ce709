// Package helm keeps releases of Helm charts as HelmReleases ask: it observes what the storage, the status and the cluster say
// of a release, decides by values alone what is to be done next, and performs that one action through Helm's SDK.
package helm
