// Package external brings the artifacts that other controllers made into the storage: what an ExternalArtifact's status
// names is downloaded from its URL and checked against its digest, so that consumers find the snapshot by it.
//
// The objects belong to those who make them. Nothing is written to them here; what goes wrong is told by an event.
package external
