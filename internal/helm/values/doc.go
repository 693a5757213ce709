// Package values composes the values of a release: what ConfigMaps and Secrets of its namespace hold, and what the
// HelmRelease itself says, in the order and by the rules of Flux, within limits of work and memory. It is pure but for
// reading those objects through a Source.
//
// The same objects give the same values as under Flux 2.9, and the same digest of them: a release that changes hands is not
// upgraded for it.
package values
