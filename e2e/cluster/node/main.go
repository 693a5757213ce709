package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics on /metrics
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components are the programs inside this one.
var components = map[string]func() int{
	"kubelet":    func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
	"kube-proxy": func() int { return cli.Run(proxy.NewProxyCommand()) },
}

func main() {
	if len(os.Args) > 1 {
		if start, ok := components[os.Args[1]]; ok {
			// The commands of Kubernetes read os.Args themselves.
			os.Args = os.Args[1:]
			os.Exit(start())
		}
	}
	fmt.Fprint(os.Stderr, "Usage: node kubelet|kube-proxy FLAGS…\n")
	os.Exit(2)
}
