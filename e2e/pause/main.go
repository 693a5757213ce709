// Pause holds the namespaces of a pod on a real node: a container runtime starts one for each pod before the pod's containers.
// It waits to be told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
}
