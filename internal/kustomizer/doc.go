// Package kustomizer holds what everybody who runs the kustomize library in this process has to heed: the lock of the schema that
// the library keeps for all, and the size of YAML that it would expand without bounds.
package kustomizer
