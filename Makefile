# Everything that is done to this repository is a target here. `make help` lists them.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/cleat-dev/cleat/internal/agent.Version=$(VERSION)
GO      ?= go
DOCKER  ?= docker
# What the image is called, which commit and time it says it is of, and what `make image-oci` makes it for.
IMAGE     ?= ghcr.io/cleat-dev/cleat
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)
CREATED   ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PLATFORMS ?= linux/$(shell $(GO) env GOARCH)
# Leaving time for the first build of a cold machine; a test that hangs is ended by its own deadline long before.
TIMEOUT ?= 30m
# How long `make fuzz` gives each target.
FUZZTIME ?= 60s
# Pinned here and not in go.mod: the linter's module graph would become the agent's.
GOLANGCI := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2

.DEFAULT_GOAL := help
.PHONY: help build image image-oci image-same cluster cluster-node generate test unit fuzz e2e e2e-incluster e2e-kind demo lint verify clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the agent: bin/cleat
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/cleat ./cmd/agent

image: ## build the container image with Docker
	@$(DOCKER) info >/dev/null 2>&1 || \
	{ echo "make image: no Docker answers here; make image-oci makes the same image without it" >&2; exit 1; }
	DOCKER_BUILDKIT=1 $(DOCKER) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		--build-arg SOURCE_DATE_EPOCH=$(CREATED) $(IMAGE_FLAGS) -t $(IMAGE):$(VERSION) .

image-oci: ## build it without Docker, for each of PLATFORMS: bin/image.tar, which ctr, podman and Docker load
	$(GO) run ./cmd/image -name $(IMAGE):$(VERSION) -version $(VERSION) -revision '$(REVISION)' -created $(CREATED) \
		-oci bin/image.tar $(PLATFORMS)

image-same: image image-oci ## build it both ways, compare the two, and run it
	CLEAT_IMAGE=$(IMAGE):$(VERSION) CLEAT_ARCHIVE=$(CURDIR)/bin/image.tar DOCKER=$(DOCKER) $(GO) test -count=1 -v -run TestDockerfile ./cmd/image

cluster: ## build the embedded control plane, bin/devcluster and bin/kwok, and bin/helm
	@e2e/cluster/build.sh bin

cluster-node: cluster ## build what `devcluster up --real-node` takes, and the images of its tests
	@e2e/cluster/build.sh bin node
	@$(GO) run ./e2e/images bin

generate: ## write manifests/crds from the Flux API modules
	cd manifests/generate && $(GO) run . -out ../crds

test: unit e2e ## run every test: unit with -race, then end to end on a control plane that it starts

unit: ## run the unit tests with -race
	CGO_ENABLED=1 $(GO) test -race -timeout $(TIMEOUT) $$($(GO) list ./... | grep -v '/e2e$$')

fuzz: ## run every fuzz target for FUZZTIME, 60s unless set, one after the other
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' internal e2e | sort | while IFS=: read -r file func; do \
		target=$${func#func }; dir=$$(dirname "$$file"); echo "$$dir $$target"; \
		CGO_ENABLED=1 $(GO) test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) -parallel=2 -timeout=$(TIMEOUT) "./$$dir" || exit 1; \
	done

e2e: build cluster ## run the end-to-end tests; E2E_KUBECONFIG names a cluster of yours instead of a new one
	@bin/devcluster check-node || echo 'so the tests that take one are skipped'
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout $(TIMEOUT) ./e2e

e2e-incluster: cluster-node image-oci ## run the agent as a pod of its own manifests, on a real node; needs root and containerd
	E2E_IMAGE=$(CURDIR)/bin/image.tar CGO_ENABLED=1 $(GO) test -race -count=1 -v -timeout $(TIMEOUT) -run '^(TestRealNode|TestInCluster)$$' ./e2e

e2e-kind: ## install the agent in a kind cluster, check it, and run the suite there; skipped without Docker and kind
	@e2e/kind.sh

demo: ## watch a Git commit become workloads; DEMO_EXIT=1 ends by itself, 0 if every step was seen
	@echo "Compiling the demo (some minutes the first time; the agent shares most of it)" >&2
	@CGO_ENABLED=0 $(GO) run -trimpath ./e2e/demo

lint: ## run golangci-lint; the first time builds it
	$(GOLANGCI) run ./...

verify: ## check that generated files, formatting and go.mod are up to date, and vet
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	(cd manifests/generate && $(GO) run . -out "$$dir") && diff -r manifests/crds "$$dir"
	@unformatted=$$(gofmt -l cmd internal e2e manifests) && test -z "$$unformatted" || \
	{ echo "gofmt would change: $$unformatted" >&2; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...

clean: ## remove bin/ and what the demo left
	rm -rf bin .demo
