// Package object is the pure part of handling Kubernetes objects: their identities and sets of them, digests that tell
// whether something changed without keeping it, and the masking of Secret values. It has no client, clock or log.
package object
