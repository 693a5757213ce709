// Package decrypt opens what SOPS has encrypted in a source, in memory and with the keys of one Kustomization only.
package decrypt
