#!/bin/sh
# Builds devcluster, kwok and the helm command into one folder: build.sh OUTDIR
# With a second word, node, also the kubelet and kube-proxy of a real node: build.sh OUTDIR node
#
# Does nothing, in a moment, when each is newer than everything in its folder. What is out of date is left to the build cache of Go.
set -eu

if [ $# -lt 1 ] || [ "${2:-node}" != node ]; then
	echo "usage: $0 OUTDIR [node]" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"

# stale NAME FOLDER: is OUTDIR/NAME missing, or older than a source in FOLDER?
# Tests are no sources of the binaries.
stale() {
	[ ! -x "$out/$1" ] ||
		[ -n "$(find "$2" -newer "$out/$1" -type f ! -name '*_test.go' ! -name '*.md' -print -quit)" ]
}

# The output gets its name only when it is complete, so that an interrupted
# build is not taken for a finished one, and a running binary can be replaced.
build() { # NAME FOLDER LDFLAGS [PACKAGE]
	(cd "$2" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $3" -o "$out/.$1.next" "${4:-.}")
	mv "$out/.$1.next" "$out/$1"
	touch "$out/$1" # go keeps the time of a binary that did not change
}

# Without a version, charts that ask for the version of Kubernetes fail.
version_flags() {
	version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	minor=${version#v1.}
	minor=${minor%%.*}
	echo "-X k8s.io/component-base/version.gitVersion=$version" \
		"-X k8s.io/component-base/version.gitMajor=1" \
		"-X k8s.io/component-base/version.gitMinor=$minor" \
		"-X k8s.io/client-go/pkg/version.gitVersion=$version"
}

if stale devcluster .; then
	echo "building the control plane: about 6 minutes the first time, half a minute later" >&2
	build devcluster . "$(version_flags)"
fi
if [ "${2:-}" = node ] && stale node node; then
	echo "building the kubelet and kube-proxy: 3 minutes the first time, once the control plane is built" >&2
	build node . "$(version_flags)" ./node
fi
if stale kwok kwok; then
	echo "building kwok: about 2 minutes the first time" >&2
	build kwok kwok ""
fi
if stale helm ../helmcli; then
	echo "building helm: a minute, once the agent is built" >&2
	build helm ../helmcli "-X helm.sh/helm/v3/internal/version.version=$(cd ../helmcli && go list -m -f '{{.Version}}' helm.sh/helm/v3)" helm.sh/helm/v3/cmd/helm
fi
