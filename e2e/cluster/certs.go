package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

// lifetime is long because a folder may be kept for as long as somebody likes;
// the keys protect a cluster on the loopback interface that holds nothing.
const lifetime = 10 * 365 * 24 * time.Hour

// firstServiceIP is where the API server is inside the cluster: the first
// address of serviceCIDR.
const (
	serviceCIDR    = "10.96.0.0/16"
	firstServiceIP = "10.96.0.1"
)

// An authority signs the certificates of one cluster.
type authority struct {
	dir  layout
	cert *x509.Certificate
	key  crypto.Signer
}

// An identity is a client of the API server: who it is and its groups.
type identity struct {
	file   string // name of its files in DIR/pki
	user   string
	groups []string
}

// identities are the clients that get a certificate. They differ so that the
// audit log tells them apart.
var identities = []identity{
	{file: "admin", user: "admin", groups: []string{"system:masters"}},
	{file: "kwok", user: "kwok", groups: []string{"system:masters"}},
	{file: "kube-controller-manager", user: "system:kube-controller-manager"},
	{file: "kube-scheduler", user: "system:kube-scheduler"},
	{file: "kubelet", user: "system:node:" + realNodeName, groups: []string{"system:nodes"}},
	{file: "kube-proxy", user: "system:kube-proxy"},
}

// ensurePKI creates what is missing in DIR/pki, or no longer valid, and keeps
// the rest: the same authority and service-account key over restarts means that
// old kubeconfigs and tokens keep working.
func ensurePKI(dir layout) error {
	ca, err := ensureAuthority(dir)
	if err != nil {
		return err
	}
	if _, err := ensureKey(dir.pki("service-account.key")); err != nil {
		return err
	}
	if err := ca.ensureLeaf("kube-apiserver", servingTemplate()); err != nil {
		return err
	}
	for _, id := range identities {
		if err := ca.ensureLeaf(id.file, clientTemplate(id)); err != nil {
			return err
		}
	}
	return nil
}

func ensureAuthority(dir layout) (*authority, error) {
	key, err := ensureKey(dir.pki("ca.key"))
	if err != nil {
		return nil, err
	}
	ca := &authority{dir: dir, key: key}
	if cert, err := readCert(dir.pki("ca.crt")); err == nil && ca.owns(cert) && time.Now().Before(cert.NotAfter) {
		ca.cert = cert
		return ca, nil
	}
	ca.cert = &x509.Certificate{
		Subject:               pkix.Name{CommonName: "devcluster"},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	ca.cert, err = ca.sign("ca", ca.cert, key.Public())
	return ca, err
}

// ensureLeaf keeps a certificate that this authority signed and that has not
// run out; anything else, a missing file included, is replaced.
func (a *authority) ensureLeaf(name string, template *x509.Certificate) error {
	key, err := ensureKey(a.dir.pki(name + ".key"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if cert, err := readCert(a.dir.pki(name + ".crt")); err == nil {
		opts := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
		if _, err := cert.Verify(opts); err == nil && samePublicKey(cert.PublicKey, key.Public()) && covers(cert, template) {
			return nil
		}
	}
	_, err = a.sign(name, template, key.Public())
	return err
}

// covers says whether a certificate is for all addresses that it shall be for:
// the folder may come from a version that knew fewer.
func covers(cert, template *x509.Certificate) bool {
	for _, ip := range template.IPAddresses {
		if cert.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

func (a *authority) owns(cert *x509.Certificate) bool {
	return samePublicKey(cert.PublicKey, a.key.Public())
}

// sign writes DIR/pki/NAME.crt.
func (a *authority) sign(name string, template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore = now.Add(-time.Hour) // a clock that is set back a little must not break the cluster
	template.NotAfter = now.Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", name, err)
	}
	if err := writePEM(a.dir.pki(name+".crt"), "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func servingTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(firstServiceIP), net.ParseIP(hostIP)},
	}
}

func clientTemplate(id identity) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.user, Organization: id.groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func ensureKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return key, nil
}

func createKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "EC PRIVATE KEY", der)
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading %s: no PEM block", path)
	}
	return block.Bytes, nil
}

func writePEM(path, kind string, der []byte) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func samePublicKey(a, b crypto.PublicKey) bool {
	key, ok := a.(*ecdsa.PublicKey)
	return ok && key.Equal(b)
}
