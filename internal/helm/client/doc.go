// Package client is what is under Helm's SDK: how its actions read, write and wait on a cluster. A Client acts as one
// identity for one operation, whose end ends whatever it does.
//
// It asks the API server directly and lets it validate; waits are observations of internal/kube. What an operation uses of
// connections and discovery it shares with all others on the same API server.
package client
