// Package image makes container images of static Go programs, without Docker.
//
// An image is two layers: the files that the program finds around it, which seldom change, and the program with its bill of
// materials. Nothing in them depends on the machine or the time: the same program and configuration give the same digest.
// WriteRoot writes what is in the layers to a directory instead, which is how the Dockerfile comes to the same files.
package image
