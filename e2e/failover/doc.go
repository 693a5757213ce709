// Package failover is what two agents are given to do while the one that leads goes away in the middle of it: Kustomizations and Helm
// releases that all get a new revision at once, a count of what is done for it, and the verdict on what has become of it.
package failover
