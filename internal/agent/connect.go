package agent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// connect returns how to reach the API server: the kubeconfig if one is given, otherwise the pod's own service account.
func connect(ctx context.Context, flags Flags) (*rest.Config, error) {
	config, err := load(flags.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "cleat/" + Version
	config.QPS, config.Burst = flags.KubeAPIQPS, flags.KubeAPIBurst
	fair, err := fairlyShared(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("reaching the API server at %s: %w", config.Host, err)
	}
	if fair {
		config.QPS, config.Burst = -1, -1 // the server sees the whole and shares it out better than we can
	}
	return config, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("reading the in-cluster configuration (outside of a cluster, give --kubeconfig): %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading --kubeconfig: %w", err)
	}
	return config, nil
}

// fairlyShared says whether the API server has priority and fairness: it then names the flow schema in every answer.
func fairlyShared(ctx context.Context, config *rest.Config) (bool, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return false, err
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return false, err
	}
	url.Path = "/version" // which anybody may ask for
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url.String(), nil)
	if err != nil {
		return false, err
	}
	response, err := client.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	return response.Header.Get("X-Kubernetes-Pf-Flowschema-Uid") != "", nil
}
