package image

import (
	"encoding/pem"
	"runtime/debug"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// authoritiesModule is where the certificates of public authorities are from: pinned by go.mod, where those of a base image or of
// the machine that builds would change with the day. A test holds the version to that of go.mod; a program cannot always tell
// what it was built from.
func authoritiesModule() debug.Module {
	return debug.Module{Path: "golang.org/x/crypto/x509roots/fallback", Version: "v0.0.0-20261030153154-30a33513ff6d"}
}

// authorities returns the bundle that Mozilla publishes.
//
// It is a file in the image and not linked into the agent: a bundle that is linked in is not looked at as soon as somebody
// mounts the certificate of a company beside it. A file cannot say that an authority is trusted only for certificates from
// before some day, so those are left out.
func authorities() []byte {
	var text []byte
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
		}
	}
	return text
}
