// Package storage keeps Helm releases in Secrets, in Helm's own encoding: the helm CLI and Flux read what it writes, and it
// reads what they write, Helm 3 and 4 alike.
//
// Observe reads what there is of one release, by one request, and decodes no more than is asked for. What it returns, the
// Revisions, is the memory of a whole operation: the Driver that Helm's SDK is given answers from it and adds to it what it
// writes. That is sound as long as one process at a time works on a release, which is what leader election is for; if
// another does all the same, an update meets a resourceVersion that is not the remembered one, and is a ConflictError.
package storage
