// Package oci fetches OCIRepositories: artifacts that are kept in container registries.
//
// What a tag names now is asked by one HEAD request, whose answer all objects with the same URL and credentials share; only
// when the digest is new is anything downloaded. From then on everything goes by that digest: signatures are looked for
// under it, the manifest and the layer are fetched by it and hashed, so a tag that moves meanwhile changes nothing.
// Challenges and tokens are go-containerregistry's; the requests are made here, on connections whose every byte is counted
// and which carry credentials to the registry and its own token server only.
package oci
