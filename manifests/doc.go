// Package manifests holds what the agent is installed with in a cluster, as it is in this folder, so that `cleat install` needs
// nothing else.
package manifests
