package health

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestOf(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want Status
	}{
		"Deployment rolled out": {`{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 2}, spec: {replicas: 1},
			status: {observedGeneration: 2, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1,
			conditions: [{type: Available, status: "True"}, {type: Progressing, status: "True", reason: NewReplicaSetAvailable}]}}`, Current},
		"Deployment not looked at": {`{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 2}, spec: {replicas: 1},
			status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1}}`, InProgress},
		"Deployment stuck": {`{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1,
			conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]}}`, Failed},
		"StatefulSet partly up": {`{apiVersion: apps/v1, kind: StatefulSet, metadata: {generation: 1}, spec: {replicas: 2},
			status: {observedGeneration: 1, replicas: 2, readyReplicas: 1, currentReplicas: 2}}`, InProgress},
		"DaemonSet new":  {`{apiVersion: apps/v1, kind: DaemonSet, metadata: {generation: 1}}`, InProgress},
		"Job running":    {`{apiVersion: batch/v1, kind: Job, status: {startTime: "2026-11-23T00:00:00Z", active: 1}}`, InProgress},
		"Job complete":   {`{apiVersion: batch/v1, kind: Job, status: {startTime: "2026-11-23T00:00:00Z", conditions: [{type: Complete, status: "True"}]}}`, Current},
		"Job failed":     {`{apiVersion: batch/v1, kind: Job, status: {conditions: [{type: Failed, status: "True"}]}}`, Failed},
		"CronJob":        {`{apiVersion: batch/v1, kind: CronJob}`, Current},
		"Pod running":    {`{apiVersion: v1, kind: Pod, status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}`, Current},
		"Pod not ready":  {`{apiVersion: v1, kind: Pod, status: {phase: Running, conditions: [{type: Ready, status: "False"}]}}`, InProgress},
		"Pod crashing":   {`{apiVersion: v1, kind: Pod, status: {phase: Running, containerStatuses: [{name: a, state: {waiting: {reason: CrashLoopBackOff}}}]}}`, Failed},
		"PVC pending":    {`{apiVersion: v1, kind: PersistentVolumeClaim, status: {phase: Pending}}`, InProgress},
		"PVC bound":      {`{apiVersion: v1, kind: PersistentVolumeClaim, status: {phase: Bound}}`, Current},
		"CRD new":        {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition}`, InProgress},
		"CRD served":     {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, status: {conditions: [{type: Established, status: "True"}]}}`, Current},
		"CRD refused":    {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, status: {conditions: [{type: NamesAccepted, status: "False"}]}}`, Failed},
		"Namespace":      {`{apiVersion: v1, kind: Namespace, status: {phase: Active}}`, Current},
		"Namespace gone": {`{apiVersion: v1, kind: Namespace, metadata: {deletionTimestamp: "2026-11-23T00:00:00Z"}, status: {phase: Terminating}}`, Terminating},
		"ConfigMap":      {`{apiVersion: v1, kind: ConfigMap}`, Current},
		"not understood": {`{apiVersion: x.io/v1, kind: X, metadata: {generation: many}}`, Unknown},

		"custom, no conditions": {`{apiVersion: x.io/v1, kind: X}`, Current},
		"custom, not ready":     {`{apiVersion: x.io/v1, kind: X, status: {conditions: [{type: Ready, status: "False"}]}}`, InProgress},

		"Kustomization ready": {`{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {generation: 3},
			status: {observedGeneration: 3, conditions: [{type: Ready, status: "True"}]}}`, Current},
		"Kustomization ready once": {`{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {generation: 3},
			status: {observedGeneration: 2, conditions: [{type: Ready, status: "True"}]}}`, InProgress},
		"Kustomization at work": {`{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {generation: 3},
			status: {observedGeneration: 3, conditions: [{type: Reconciling, status: "True"}, {type: Ready, status: "True"}]}}`, InProgress},
		"Kustomization stalled": {`{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {generation: 3},
			status: {observedGeneration: 3, conditions: [{type: Stalled, status: "True"}, {type: Ready, status: "False"}]}}`, Failed},
		"HelmRelease of Flux's": {`{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {generation: 2}, status: {observedGeneration: 2, conditions: [
			{type: Ready, status: "True", observedGeneration: 2, reason: TestSucceeded}, {type: Drifted, status: "False", observedGeneration: 2},
			{type: Released, status: "True", observedGeneration: 2}, {type: TestSuccess, status: "True", observedGeneration: 2}]}}`, Current},
		"HelmRelease given up": {`{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [
			{type: Stalled, status: "True", observedGeneration: 1, reason: RetriesExceeded}, {type: Ready, status: "False", observedGeneration: 1, reason: TestFailed}]}}`, Failed},
		"HelmRelease at work": {`{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {generation: 1}, status: {observedGeneration: -1, conditions: [
			{type: Reconciling, status: "True", observedGeneration: 1, reason: Progressing}, {type: Ready, status: Unknown, observedGeneration: 1, reason: Progressing}]}}`, InProgress},
		"GitRepository unseen": {`{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {generation: 1}}`, InProgress},
		"Provider":             {`{apiVersion: notification.toolkit.fluxcd.io/v1beta3, kind: Provider, metadata: {generation: 1}}`, Current},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(tt.text), &u.Object); err != nil {
				t.Fatal(err)
			}
			// YAML numbers come as float64; the API server's JSON is decoded to int64.
			raw, err := u.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if err := u.UnmarshalJSON(raw); err != nil {
				t.Fatal(err)
			}
			if got := Of(u); got.Status != tt.want {
				t.Errorf("got %s (%s), want %s", got.Status, got.Message, tt.want)
			}
		})
	}
}
