package main

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

// showObjects prints what Cleat keeps true, as the cluster has it, and fails unless that is what the last commit describes.
func (s *stage) showObjects(ctx context.Context) error {
	var rows [][]string
	for _, ref := range []live.Ref{source, kustomization} {
		obj, err := s.cluster.Get(ctx, ref)
		if err != nil {
			return err
		}
		rows = append(rows, []string{obj.GetKind(), obj.GetNamespace(), obj.GetName(), state(obj)})
	}
	owned := "kustomize.toolkit.fluxcd.io/name=shop,kustomize.toolkit.fluxcd.io/namespace=demo"
	kinds := []string{"namespaces", "configmaps", "services", "deployments", "statefulsets", "jobs", "cronjobs"}
	var names []string
	for _, kind := range kinds {
		objects, err := s.cluster.List(ctx, kind, "shop", owned)
		if err != nil {
			return err
		}
		for i := range objects {
			obj := &objects[i]
			names = append(names, obj.GetKind()+" "+generated.ReplaceAllString(obj.GetName(), ""))
			rows = append(rows, []string{obj.GetKind(), obj.GetNamespace(), obj.GetName(), state(obj)})
		}
	}
	s.out.table([]string{"KIND", "NAMESPACE", "NAME", "STATE"}, rows)
	want := []string{"ConfigMap banner", "Deployment web", "Job migrate", "Namespace shop", "Service cache", "Service web", "StatefulSet cache"}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		return fmt.Errorf("the cluster has %v, but the commit describes %v", names, want)
	}
	return nil
}

// state is a word or two about an object, from its status.
func state(obj *unstructured.Unstructured) string {
	number := func(path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(obj.Object, path...)
		return n
	}
	switch obj.GetKind() {
	case "GitRepository", "Kustomization":
		if live.Ready(obj) {
			return "Ready at " + live.Revision(obj)
		}
		return live.Describe(obj)
	case "ConfigMap":
		data, _, _ := unstructured.NestedStringMap(obj.Object, "data")
		return fmt.Sprintf("TEXT=%q", data["TEXT"])
	case "Service":
		address, _, _ := unstructured.NestedString(obj.Object, "spec", "clusterIP")
		return "cluster IP " + address
	case "Deployment":
		return fmt.Sprintf("%d of %d available", number("status", "availableReplicas"), number("spec", "replicas"))
	case "StatefulSet":
		return fmt.Sprintf("%d of %d ready", number("status", "readyReplicas"), number("spec", "replicas"))
	case "Job":
		return fmt.Sprintf("%d succeeded", number("status", "succeeded"))
	case "Namespace":
		phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase")
		return phase
	}
	return ""
}

func (s *stage) showWayAround() {
	s.out.lines(
		"Look around, in another terminal:",
		"",
		"  export KUBECONFIG="+s.kubeconfig(),
		"  "+s.bin("devcluster")+" kubectl get gitrepositories,kustomizations,all -A",
		"  git clone "+s.repo.URL+"      # change it, push it, then ask Cleat to look:",
		"  "+s.bin("devcluster")+" kubectl annotate --overwrite -n demo gitrepository/shop reconcile.fluxcd.io/requestedAt=\"$(date)\"",
		"  curl http://"+s.agent.MetricsAddr+"/metrics",
		"  tail -f "+s.file("cleat.log"),
		"",
		"Ctrl-C stops everything; what was logged stays in "+s.dir+".",
	)
}
