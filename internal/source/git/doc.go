// Package git serves GitRepository: it fetches commits over http, https and ssh and stores their trees as artifacts.
//
// A repository is kept as a bare mirror per (URL, credentials, ref) and brought up to date by asking the server for the one
// commit that the ref names now; what of it the mirror has already is not sent again. The wire protocol is spoken here, on
// connections that are ours, so that every byte that a server sends is counted, every wait has an end, and credentials go
// to one host only; go-git reads and writes packs and objects.
package git
