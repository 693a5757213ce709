// Kwok plays the kubelets of devcluster's fake nodes: it is kwok as it is
// published (sigs.k8s.io/kwok), with stages for what tests need.
//
// A stage says which objects it is for and what to do with them. Nodes, and
// pods that simply run, have the stages that kwok brings. The folder stages has
// ours: for pods that are deleted (pod-delete.yaml says why), and those that a
// test steers by annotations on a pod or a pod template:
//
//	cleat.dev/fail: "true"      a pod with restartPolicy Never or OnFailure
//	                            ends as Failed instead of Succeeded
//	cleat.dev/run-for: 5s       such a pod ends after this time (default: at
//	                            once); a Go duration
//	cleat.dev/unready: "true"   the pod runs but does not become Ready, or
//	                            stops being so; it heals when the annotation
//	                            is removed from it
package main
