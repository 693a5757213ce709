// Package cloudtest is for tests: the endpoints at which clouds exchange a ServiceAccount's token for one of their own, on
// loopback, and the clouds' own libraries made to use them.
package cloudtest
