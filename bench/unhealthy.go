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
	all     = 128
	healthy = all - 11
)

// unhealthy measures how long a commit that changes all takes for those that are healthy, first with all healthy and then
// with some that wait for what never comes. The work is the same in both.
func unhealthy(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	repo, commit, err := w.repository(version("v0"))
	if err != nil {
		return err
	}
	if err := w.apply(ctx, kustomizations(0)); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, all, live.ReadyAt(commit)); err != nil {
		return err
	}
	for _, sick := range []int{0, all - healthy} {
		if err := w.apply(ctx, kustomizations(sick)); err != nil {
			return err
		}
		if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, sick, live.Condition("Ready", "Unknown", "Progressing")); err != nil {
			return err
		}
		for round := range 5 {
			if commit, err = push(repo, version(fmt.Sprintf("v%d-%d", sick, round))); err != nil {
				return err
			}
			if err := w.changeAll(ctx, commit, sick); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeAll measures until those that can be healthy are so at the commit.
func (w *world) changeAll(ctx context.Context, commit string, sick int) error {
	l, err := w.lap()
	if err != nil {
		return err
	}
	if err := w.cluster.Poke(ctx, live.Ref{Kind: "gitrepositories", Namespace: namespace, Name: "shop"}, commit); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, healthy, well(commit)); err != nil {
		return err
	}
	return l.report(fmt.Sprintf("a commit that changes all: %d ready, beside %d that never are", healthy, sick))
}

// well says of the same Kustomizations in every round that they are ready at the commit.
func well(commit string) func(*unstructured.Unstructured) bool {
	ready := live.ReadyAt(commit)
	return func(obj *unstructured.Unstructured) bool {
		var i int
		_, err := fmt.Sscanf(obj.GetName(), "app-%d", &i)
		return err == nil && i < healthy && ready(obj)
	}
}

// version is one folder with a ConfigMap.
func version(version string) string {
	return fmt.Sprintf("-- app/cm.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {version: %s}\n", version)
}

// kustomizations are all, of which the last wait for an object that nobody makes.
func kustomizations(sick int) *strings.Builder {
	var manifests strings.Builder
	for i := range all {
		health := "healthChecks: []"
		if i >= all-sick {
			health = "healthChecks: [{apiVersion: v1, kind: ConfigMap, name: nowhere, namespace: " + namespace + "}]"
		}
		fmt.Fprintf(&manifests, `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app-%[1]d}
spec: {interval: 1h, timeout: 5m, path: ./app, prune: true, namePrefix: app-%[1]d-, targetNamespace: %[2]s, %[3]s, sourceRef: {kind: GitRepository, name: shop}}
`, i, namespace, health)
	}
	return &manifests
}
