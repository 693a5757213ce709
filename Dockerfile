# The agent's image, for Docker. `make image` builds it.
#
# What it is made of is said in cmd/image, which `make image-oci` runs where there is no Docker: the files of both images are the
# same, byte for byte, with the same Go. It takes BuildKit, which Docker has used by itself since version 23.

# Named to the patch, because another Go compiles another binary.
ARG GO_IMAGE=golang:1.26.8

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
# Where modules come from, for those who build behind a proxy of their own.
ARG GOPROXY
WORKDIR /src
COPY go.mod go.sum ./
COPY cmd cmd
COPY internal internal
ARG TARGETOS TARGETARCH
# The time of the image, in seconds since 1970. BuildKit knows it by this name; the files are of 1970, so that a layer is the same again.
ARG VERSION=dev REVISION= SOURCE_DATE_EPOCH=0
# The caches are the builder's and no part of an image.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
	go run ./cmd/image -version "$VERSION" -revision "$REVISION" -created "$SOURCE_DATE_EPOCH" -root /root-of "$TARGETOS/$TARGETARCH"

# Nothing but what is copied: no shell, no package manager, no libraries.
FROM scratch
ARG VERSION=dev REVISION=
LABEL org.opencontainers.image.title="cleat" \
	org.opencontainers.image.description="A GitOps agent for Kubernetes that serves Flux's APIs" \
	org.opencontainers.image.url="https://github.com/cleat-dev/cleat" \
	org.opencontainers.image.source="https://github.com/cleat-dev/cleat" \
	org.opencontainers.image.documentation="https://github.com/cleat-dev/cleat/blob/main/README.md" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.version="$VERSION" \
	org.opencontainers.image.revision="$REVISION"
# First what seldom changes, so that a new version of the agent is one layer to pull.
COPY --from=build /root-of/0 /
COPY --from=build /root-of/1 /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /
# A number: of a name Kubernetes cannot tell that it is not root's.
USER 65532:65532
EXPOSE 8080 9090 9091 9292 9440
ENTRYPOINT ["/usr/local/bin/cleat"]
