// Package api holds what every other package must agree on: the scheme of the Flux API modules, the names that make Cleat
// interchangeable with Flux (field managers, labels, finalizer), our own annotations and reasons, and the typed Fault.
package api
