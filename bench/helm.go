package main

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sync/errgroup"

	"github.com/cleat-dev/cleat/e2e/live"
)

// helmRepository has every release name a chart in a HelmRepository, which makes a HelmChart for each: what the time of Flux is known
// for.
func helmRepository(ctx context.Context, w *world) error {
	return helmReleases(ctx, w, `apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: charts}
spec: {type: oci, interval: 12h, insecure: true, url: "oci://%s/charts"}
`, `chart: {spec: {chart: app, version: "*", interval: 10h, sourceRef: {kind: HelmRepository, name: charts}}}`)
}

// ociRepository has all releases refer to one OCIRepository.
func ociRepository(ctx context.Context, w *world) error {
	return helmReleases(ctx, w, `apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: app}
spec:
  interval: 12h
  insecure: true
  url: "oci://%s/charts/app"
  ref: {tag: 1.0.0}
  layerSelector: {mediaType: application/vnd.cncf.helm.chart.content.v1.tar+gzip, operation: copy}
`, `chartRef: {kind: OCIRepository, name: app}`)
}

// releasesAs lets the releases act as a ServiceAccount with the rights of an administrator of the namespace.
const releasesAs = `---
apiVersion: v1
kind: ServiceAccount
metadata: {name: flux}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flux}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: flux, namespace: bench}]
`

// helmReleases measures the installation of w.count releases of one chart, and an upgrade of all of them.
func helmReleases(ctx context.Context, w *world, source, chart string) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	registry, err := w.registry(ctx)
	if err != nil {
		return err
	}
	if err := w.pushChart(ctx, registry); err != nil {
		return err
	}
	if _, err := w.cluster.Apply(ctx, []byte(fmt.Sprintf(source, registry)+releasesAs), namespace); err != nil {
		return err
	}
	for _, round := range []struct{ what, cpu string }{{"installed", "1m"}, {"upgraded", "2m"}} {
		l, err := w.lap()
		if err != nil {
			return err
		}
		if err := w.applyReleases(ctx, chart, round.cpu); err != nil {
			return err
		}
		if err := w.cluster.UntilAll(ctx, "helmreleases", namespace, w.count, live.Ready); err != nil {
			return err
		}
		if err := l.report(fmt.Sprintf("%d HelmReleases %s, with %d more CRDs", w.count, round.what, w.crds)); err != nil {
			return err
		}
	}
	return nil
}

// applyReleases applies the releases, 16 at a time.
func (w *world) applyReleases(ctx context.Context, chart, cpu string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range w.count {
		release := fmt.Sprintf(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: app-%[1]d}
spec:
  interval: 1h
  releaseName: app-%[1]d
  targetNamespace: %[2]s
  storageNamespace: %[2]s
  serviceAccountName: flux
  %[3]s
  install: {crds: Create}
  upgrade: {crds: CreateReplace}
  values:
    replicaCount: 0
    serviceAccount: {enabled: true}
    ingress: {enabled: true, className: nginx}
    resources: {requests: {cpu: %[4]s, memory: 16Mi}}
`, i, namespace, chart, cpu)
		group.Go(func() error {
			_, err := w.cluster.Apply(ctx, []byte(release), namespace)
			return err
		})
	}
	return group.Wait()
}

// registry starts an OCI registry and returns its host and port.
func (w *world) registry(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(stdlog.New(io.Discard, "", 0)))} //nolint:gosec // on loopback
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	w.running = append(w.running, func() error {
		err := server.Close()
		<-ended
		return err
	})
	return listener.Addr().String(), nil
}

// pushChart packages the benchmark's chart and pushes it as users do.
func (w *world) pushChart(ctx context.Context, registry string) error {
	for _, args := range [][]string{
		{"package", filepath.Join(w.root, "bench", "testdata", "app"), "--destination=" + w.dir},
		{"push", filepath.Join(w.dir, "app-1.0.0.tgz"), "oci://" + registry + "/charts", "--plain-http"},
	} {
		cmd := exec.CommandContext(ctx, filepath.Join(w.root, "bin", "helm"), args...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+w.dir, "HELM_CONFIG_HOME="+w.dir, "HELM_DATA_HOME="+w.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("helm %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// addCRDs makes w.crds kinds that nobody uses, of a hundred fields each: what a client pays for that reads all of a cluster's schemas.
func (w *world) addCRDs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	var fields strings.Builder
	for i := range 100 {
		fmt.Fprintf(&fields, "              field%d: {type: object, description: %q, properties: {name: {type: string}, values: {type: array, items: {type: string}}}}\n",
			i, strings.Repeat("What this field is for. ", 4))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range w.crds {
		crd := fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things%[1]d.bench.example.com}
spec:
  group: bench.example.com
  scope: Namespaced
  names: {kind: Thing%[1]d, plural: things%[1]d, singular: thing%[1]d}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
%[2]s`, i, fields.String())
		group.Go(func() error {
			if _, err := w.cluster.Apply(ctx, []byte(crd), ""); err != nil {
				return err
			}
			ref := live.Ref{Kind: "customresourcedefinitions", Name: fmt.Sprintf("things%d.bench.example.com", i)}
			_, err := w.cluster.Until(ctx, ref, live.Condition("Established", "True", ""))
			return err
		})
	}
	return group.Wait()
}
