// Package depend is what objects that depend on others share, whatever kind they are of: the references, the readiness of
// what they name, and the cycles in between.
package depend
