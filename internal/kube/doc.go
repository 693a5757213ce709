// Package kube is the edge to API servers: what is applied and pruned there, and as whom, and what is observed. Clusters knows
// the agent's own and those that kubeConfigs name.
//
// The Observer watches the kinds that inventories name and keeps of each object an Observation of a few hundred bytes. The
// Applier writes by server-side apply, feeds every answer to the Observer and, as long as an object is wanted and
// observed as it was left, spares the call. A Cluster holds both together with the discovery they share.
package kube
