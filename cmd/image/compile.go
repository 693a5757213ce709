package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// compile builds the agent so that the same source and the same Go give the same program wherever it is built: it is static,
// names no directory of this machine, and records nothing of the checkout.
func compile(ctx context.Context, binary, platform, version string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X github.com/cleat-dev/cleat/internal/agent.Version="+version, "-o", binary, "./cmd/agent")
	build.Env = append(os.Environ(), environment(platform)...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	return build.Run()
}

// environment is what Go calls the platform. What is set there wins over what this machine is set to; the lowest processors
// that the platform stands for are pinned, because a binary is not the same for others.
func environment(platform string) []string {
	system, rest, _ := strings.Cut(platform, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	set := []string{"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS="}
	if variant != "" && arch == "arm" {
		set = append(set, "GOARM="+strings.TrimPrefix(variant, "v"))
	}
	return set
}
