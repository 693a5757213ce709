# Everything that is done to this repository is a target here. `make help` lists them.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/cleat-dev/cleat/internal/agent.Version=$(VERSION)
GO      ?= go
# Leaving time for the first build of a cold machine; a test that hangs is ended by its own deadline long before.
TIMEOUT ?= 30m
# How long `make fuzz` gives each target.
FUZZTIME ?= 60s
# Pinned here and not in go.mod: the linter's module graph would become the agent's.
GOLANGCI := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2

.DEFAULT_GOAL := help
.PHONY: help build cluster generate test unit fuzz e2e e2e-kind demo lint verify clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the agent: bin/cleat
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/cleat ./cmd/agent

cluster: ## build the embedded control plane, bin/devcluster and bin/kwok, and bin/helm
	@e2e/cluster/build.sh bin

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
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout $(TIMEOUT) ./e2e

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
