package main

import (
	"embed"
	"io/fs"
	"strings"

	nodes "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	heartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat-with-lease"
	pods "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

//go:embed stages/*.yaml
var ours embed.FS

// allStages returns kwok's stages and ours as one YAML stream. Kwok's stage
// that completes the pods of Jobs is left out: our pod-complete and pod-fail
// do so for every pod that may end, and leave a choice. Our pod-delete takes
// the place of kwok's.
func allStages() (string, error) {
	stages := []string{
		nodes.DefaultNodeInit,
		heartbeat.DefaultNodeHeartbeatWithLease,
		pods.DefaultPodReady,
	}
	files, err := fs.Glob(ours, "stages/*.yaml")
	if err != nil {
		return "", err
	}
	for _, name := range files {
		data, err := ours.ReadFile(name)
		if err != nil {
			return "", err
		}
		stages = append(stages, string(data))
	}
	return strings.Join(stages, "\n---\n"), nil
}
