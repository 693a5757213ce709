package main

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

// 128 Kustomizations of which 11 never become healthy: with Flux the whole cluster lags behind those (fluxcd/flux2#5622).
const (
	all  = 128
	sick = 11
)

// unhealthy measures how long the healthy ones take, with and without the others.
func unhealthy(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	const healthy = all - sick
	repo, commit, err := w.repository(versions("v1"))
	if err != nil {
		return err
	}
	round := func(what string) error {
		l, err := w.lap()
		if err != nil {
			return err
		}
		if err := w.cluster.Poke(ctx, live.Ref{Kind: "gitrepositories", Namespace: namespace, Name: "shop"}, commit); err != nil {
			return err
		}
		ready := live.ReadyAt(commit)
		if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, healthy, func(obj *unstructured.Unstructured) bool {
			return obj != nil && strings.HasPrefix(obj.GetName(), "well-") && ready(obj)
		}); err != nil {
			return err
		}
		return l.report(what)
	}
	if err := w.apply(ctx, kustomizations("well", healthy)); err != nil {
		return err
	}
	if err := round(fmt.Sprintf("%d healthy Kustomizations installed", healthy)); err != nil {
		return err
	}
	for i := range 3 {
		if commit, err = push(repo, versions(fmt.Sprint("alone-", i))); err != nil {
			return err
		}
		if err := round("a commit that changes all of them"); err != nil {
			return err
		}
	}
	if err := w.apply(ctx, kustomizations("sick", sick)); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, sick, live.Condition("Ready", "Unknown", "Progressing")); err != nil {
		return err
	}
	for i := range 3 {
		if commit, err = push(repo, versions(fmt.Sprint("beside-", i))); err != nil {
			return err
		}
		if err := round(fmt.Sprintf("the same beside %d that never become healthy", sick)); err != nil {
			return err
		}
	}
	return nil
}

// versions are the folders well, of a ConfigMap, and sick, of a Deployment whose Pods cannot be scheduled.
func versions(version string) string {
	return fmt.Sprintf(`-- well/cm.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {version: %[1]s}
-- sick/deployment.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: sick}}
  template:
    metadata: {labels: {app: sick}, annotations: {version: %[1]s}}
    spec:
      nodeSelector: {no: such-node}
      containers: [{name: app, image: example.com/app}]
`, version)
}

func kustomizations(path string, count int) *strings.Builder {
	var manifests strings.Builder
	for i := range count {
		fmt.Fprintf(&manifests, `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[1]s-%[2]d}
spec: {interval: 1h, timeout: 2m, path: ./%[1]s, prune: true, wait: true, namePrefix: %[1]s-%[2]d-, targetNamespace: %[3]s, sourceRef: {kind: GitRepository, name: shop}}
`, path, i, namespace)
	}
	return &manifests
}
