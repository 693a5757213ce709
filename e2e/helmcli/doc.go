// Package helmcli pins the helm command that tests read releases back with: what users see of our releases is what it says.
// It is a module of its own, so that the command's modules are never in the agent's; where both have one, they have the same
// version, so that the build cache holds most of the command already.
package helmcli
