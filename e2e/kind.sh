#!/bin/sh
# Shows the agent in a cluster that is none of ours: kind's. It builds and loads the image, installs the manifests with the agent's own
# command, base and lockdown, and checks that all is there; takes it off again; and runs the end-to-end suite from outside.
# Without Docker or kind it says so and is done. KIND_NODE_IMAGE chooses the version of Kubernetes, VERSION the image's tag.
set -eu
cd "$(dirname "$0")/.."

skip() {
	echo "e2e-kind: skipped: $1" >&2
	test -z "${E2E_KIND_REQUIRED:-}" # where it is known to be there, its absence is a failure
	exit
}
docker info >/dev/null 2>&1 || skip "no Docker answers here"
command -v kind >/dev/null 2>&1 || skip "kind is not installed"

version=${VERSION:-kind-test}
name=cleat-e2e-$$
dir=$(mktemp -d)
export KUBECONFIG="$dir/kubeconfig"
trap 'kind delete cluster --name "$name" || true; rm -rf "$dir"' EXIT

make build image VERSION="$version"
kind create cluster --name "$name" --wait 3m ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"}
kind load docker-image --name "$name" "ghcr.io/cleat-dev/cleat:$version"

for overlay in "" lockdown; do
	bin/cleat install --version="$version" ${overlay:+--overlay="$overlay"}
	bin/cleat check
	bin/cleat uninstall
done

# The suite brings agents of its own, which see one namespace each; two agents must not act on the same objects.
E2E_KUBECONFIG="$KUBECONFIG" make e2e VERSION="$version"
