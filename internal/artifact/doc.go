// Package artifact holds the content-addressed store of what sources fetched: one read-only directory per digest for the
// readers inside this process, and beside it the tarball that Flux's own consumers download.
//
// Below the storage directory lie
//
//	<kind>/<namespace>/<name>/<file>   tarballs, charts and indexes at Flux's paths, and a link to the newest of them
//	.cleat/snapshots/<sha256>/         tree/ (the files), artifact.tar.gz (the same bytes as published), manifest.json
//	.cleat/tmp/                        what is being written; swept when the store is opened
//
// so that a volume written by Flux can be taken over and given back. The tarballs are the truth: they are flushed to disk
// before they get their name. The trees are a cache of them, built again from a tarball when they are missing. What was not
// made here (a chart, an index, a layer that is copied) is published as the bytes that came, and has a tree only when
// somebody asks for one.
package artifact
