// Workload is what runs in the pods of a real node: a program of which a test can ask that it becomes ready late or never,
// that it ends badly, or that it looks at another one, as a Helm test does.
//
// Every flag is also an environment variable of its name in capitals, with _ for -; a flag wins.
package main
