package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

// A repository of 1,000 folders, one application of four objects in each, of which 200 are applied: the size at which the
// time of Flux is known.
const (
	folders = 1000
	applied = 200
)

// application is a Deployment without replicas, its ServiceAccount, Service and Ingress.
const application = `-- apps/app-%[1]d/app.yaml --
apiVersion: v1
kind: ServiceAccount
metadata: {name: app-%[1]d}
---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d}
spec:
  ports: [{port: 80, targetPort: http, name: http}, {port: 81, targetPort: grpc, name: grpc}]
  selector: {app: app-%[1]d}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d, labels: {app: app-%[1]d}}
spec:
  replicas: 0
  selector: {matchLabels: {app: app-%[1]d}}
  template:
    metadata: {labels: {app: app-%[1]d}}
    spec:
      serviceAccountName: app-%[1]d
      containers:
      - name: app
        image: example.com/app:%[2]s
        ports: [{name: http, containerPort: 8080}, {name: grpc, containerPort: 8081}]
        env: [{name: COLOR, value: "#34577c"}]
        readinessProbe: {httpGet: {path: /ready, port: http}}
        resources: {requests: {cpu: 1m, memory: 16Mi}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app-%[1]d}
spec:
  rules:
  - host: app-%[1]d.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app-%[1]d, port: {number: 80}}}}]}
`

// monorepo measures an install and a commit that changes one file.
func monorepo(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	var manifests strings.Builder
	for i := range applied {
		fmt.Fprintf(&manifests, `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app-%[1]d}
spec: {interval: 1h, path: ./apps/app-%[1]d, prune: true, wait: true, targetNamespace: %[2]s, sourceRef: {kind: GitRepository, name: shop}}
`, i, namespace)
	}
	repo, commit, err := w.repository(applications("v1"))
	if err != nil {
		return err
	}

	install, err := w.lap()
	if err != nil {
		return err
	}
	if err := w.apply(ctx, &manifests); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, applied, live.ReadyAt(commit)); err != nil {
		return err
	}
	if err := install.report(fmt.Sprintf("%d Kustomizations of %d folders installed", applied, folders)); err != nil {
		return err
	}
	for round := range 3 {
		tag := fmt.Sprintf("v%d", round+2)
		if commit, err = push(repo, applications(tag)); err != nil {
			return err
		}
		if err := w.oneFile(ctx, commit, tag); err != nil {
			return err
		}
	}
	return nil
}

// applications are all folders, with the image of one at a tag.
func applications(tag string) string {
	var files strings.Builder
	for i := range folders {
		if i == 7 {
			fmt.Fprintf(&files, application, i, tag)
			continue
		}
		fmt.Fprintf(&files, application, i, "v1")
	}
	return files.String()
}

// oneFile measures from the word that there is a commit until its change is live, and until all are at its revision.
func (w *world) oneFile(ctx context.Context, commit, tag string) error {
	change, err := w.lap()
	if err != nil {
		return err
	}
	all := make(chan error, 1)
	go func() {
		all <- w.cluster.UntilAll(ctx, "kustomizations", namespace, applied, live.ReadyAt(commit))
	}()
	if err := w.cluster.Poke(ctx, live.Ref{Kind: "gitrepositories", Namespace: namespace, Name: "shop"}, tag); err != nil {
		return err
	}
	_, err = w.cluster.Until(ctx, live.Ref{Kind: "deployments", Namespace: namespace, Name: "app-7"}, func(obj *unstructured.Unstructured) bool {
		containers, _, _ := unstructured.NestedSlice(obj.Object, "spec", "template", "spec", "containers")
		container, _ := containers[0].(map[string]any)
		return container["image"] == "example.com/app:"+tag
	})
	if err != nil {
		return err
	}
	fmt.Printf("%-60s %7.2f s\n", "a commit that changes one file: live", time.Since(change.began).Seconds())
	if err := <-all; err != nil {
		return err
	}
	return change.report("the same: all at the new revision")
}
