package image

import (
	"io/fs"
	"runtime/debug"
	"time"
)

// Release says of which version of the agent an image is.
type Release struct {
	Version  string // v1.2.3
	Revision string // the commit
	Created  time.Time
}

// Agent configures the image of the agent, for a binary that was built for the platform.
//
// The agent writes below --storage-path, and briefly to the temporary directory (the known hosts of an SSH server). Everything
// else may be read-only. Time zones are in the program.
func Agent(binary, platform string, r Release) Config {
	return Config{
		Binary: binary, Program: "/usr/local/bin/cleat", Platform: platform, User: NonRoot,
		Files: []File{
			{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnonroot:x:65532:\n")},
			{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
			{Path: "/etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Content: authorities()},
			// Volumes are mounted over these. Where they are not, any user may be the one that was chosen for the container.
			{Path: "/data", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
			{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		},
		// The defaults of --metrics-addr, --storage-addr, --events-addr, --receiverAddr and --health-addr.
		Ports:   []string{"8080/tcp", "9090/tcp", "9091/tcp", "9292/tcp", "9440/tcp"},
		Labels:  labels(r),
		Version: r.Version, Created: r.Created, Modules: []debug.Module{authoritiesModule()},
	}
}

func labels(r Release) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":         "cleat",
		"org.opencontainers.image.description":   "A GitOps agent for Kubernetes that serves Flux's APIs",
		"org.opencontainers.image.url":           "https://github.com/cleat-dev/cleat",
		"org.opencontainers.image.source":        "https://github.com/cleat-dev/cleat",
		"org.opencontainers.image.documentation": "https://github.com/cleat-dev/cleat/blob/main/README.md",
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.version":       r.Version,
		"org.opencontainers.image.revision":      r.Revision,
	}
}
