// Package source holds what all kinds of sources share, whatever protocol they speak: credentials and TLS from Secrets, the
// way out to the network with its limits, the rules for redirects and addresses, ignore patterns, and the report of an
// artifact in status and events in Flux's words. Each protocol has a package below this one.
package source
