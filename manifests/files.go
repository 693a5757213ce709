package manifests

import "embed"

// Files are the bases and components; overlays are base with one component each.
//
//go:embed agent base components crds shards
var Files embed.FS
