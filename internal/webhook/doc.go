// Package webhook takes the hooks of Git hosts and registries: it gives each Receiver a path, judges what is sent there, and
// has the objects that the Receiver names looked at again.
//
// Whoever can reach the port may send anything. What is done for a request grows only with what it has shown: a path that is
// not known costs a look into a map; a known one has its header, then its body, bounded, then its signature checked; only
// then is anything parsed. Nothing in a payload is ever fetched, or used as a pattern.
package webhook
