// Package sync keeps the cluster as a Kustomization asks: it builds the manifests of a snapshot, plans what changes, records
// its intent, applies, prunes and waits for health. Elsewhere in this module it is imported as appsync.
package sync
