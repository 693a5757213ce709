package git

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"

	"github.com/cleat-dev/cleat/internal/source"
)

// minRSABits is what a host key of that kind must have at least.
const minRSABits = 2048

// errHostKey: the server is not the one that known_hosts describes.
var errHostKey = errors.New("host key verification failed")

// sshLink speaks with git-upload-pack over one SSH session.
type sshLink struct {
	client  *ssh.Client
	stop    func() bool
	stdin   io.WriteCloser
	stdout  io.Reader
	stderr  *tail
	session *ssh.Session
}

// dialSSH logs in and starts git-upload-pack. The connection is closed when ctx ends, whatever is waiting for it.
func dialSSH(ctx context.Context, n source.Network, ep endpoint, creds Credentials, proxy *source.Proxy) (*sshLink, error) {
	port := ep.Port()
	if port == "" {
		port = "22"
	}
	address := net.JoinHostPort(ep.Hostname(), port)
	config, err := creds.sshConfig(address)
	if err != nil {
		return nil, err
	}
	conn, err := n.Dial(ctx, address, proxy)
	if err != nil {
		return nil, err
	}
	// x/crypto/ssh knows no context: closing the connection is what ends its reads and writes.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := &sshLink{stop: stop, stderr: &tail{}}
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		stop()
		conn.Close()
		return nil, sshError(ctx, err)
	}
	l.client = ssh.NewClient(c, channels, requests)
	if err := l.start(ep.Path); err != nil {
		l.close()
		return nil, sshError(ctx, err)
	}
	return l, nil
}

func (l *sshLink) start(path string) (err error) {
	if l.session, err = l.client.NewSession(); err != nil {
		return err
	}
	l.session.Stderr = l.stderr
	if l.stdin, err = l.session.StdinPipe(); err != nil {
		return err
	}
	if l.stdout, err = l.session.StdoutPipe(); err != nil {
		return err
	}
	return l.session.Start(uploadPack + " '" + strings.ReplaceAll(path, "'", `'\''`) + "'")
}

// sshError names the three failures that x/crypto/ssh tells apart only by text or by a callback's error.
func sshError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the connection was closed by us
	case errors.Is(err, errHostKey):
		return err
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w: the server does not accept the key \"identity\" of the Secret", source.ErrAuthentication)
	}
	return err
}

func (c Credentials) signer() (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey([]byte(c.Identity))
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		signer, err = ssh.ParsePrivateKeyWithPassphrase([]byte(c.Identity), []byte(c.Passphrase))
	}
	if err != nil {
		// The parser's words may repeat parts of the input.
		return nil, fmt.Errorf("%w: the Secret's \"identity\" is not a private key that \"password\" opens", source.ErrAuthentication)
	}
	return signer, nil
}

// sshConfig accepts no server whose key is not in known_hosts: an absent or empty list fails closed (faults.md A10).
func (c Credentials) sshConfig(address string) (*ssh.ClientConfig, error) {
	if c.Identity == "" || c.KnownHosts == "" {
		return nil, fmt.Errorf("%w: ssh needs a Secret with \"identity\" and \"known_hosts\" in spec.secretRef", source.ErrAuthentication)
	}
	signer, err := c.signer()
	if err != nil {
		return nil, err
	}
	hosts, err := parseKnownHosts(c.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("%w: the Secret's \"known_hosts\" cannot be read", source.ErrAuthentication)
	}
	account := c.Username
	if account == "" {
		account = "git"
	}
	algorithms := hosts.HostKeyAlgorithms(address)
	if len(algorithms) == 0 {
		return nil, fmt.Errorf("%w: \"known_hosts\" of the Secret has no key for %s", errHostKey, address)
	}
	check := hosts.HostKeyCallback()
	return &ssh.ClientConfig{
		User:              account,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			if bits := rsaBits(key); bits > 0 && bits < minRSABits {
				return fmt.Errorf("%w: the server's RSA key has %d bits, at least %d are needed", errHostKey, bits, minRSABits)
			}
			if check(host, remote, key) != nil {
				return fmt.Errorf("%w: the server's key is not the one in \"known_hosts\" of the Secret; if it was replaced on purpose, run ssh-keyscan again", errHostKey)
			}
			return nil
		},
	}, nil
}

// rsaBits returns the size of an RSA key, 0 for one of another kind.
func rsaBits(key ssh.PublicKey) int {
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		if r, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok {
			return r.N.BitLen()
		}
	}
	return 0
}

// parseKnownHosts goes through a file because that is the only thing the parser reads.
func parseKnownHosts(text string) (*knownhosts.HostKeyDB, error) {
	f, err := os.CreateTemp("", "known_hosts-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return knownhosts.NewDB(f.Name())
}

func (l *sshLink) advertise(context.Context) (io.Reader, error) { return l.stdout, nil }

func (l *sshLink) request(_ context.Context, body []byte) (io.Reader, error) {
	_, err := l.stdin.Write(body)
	return l.stdout, err
}

// explain prefers what the server wrote to its error stream ("repository not found") over what that did to the protocol.
func (l *sshLink) explain(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	_ = l.session.Wait() // until the error stream has been read to its end, or the connection is closed by the deadline
	if said := l.stderr.String(); said != "" {
		return &source.Failure{Text: "the server says: " + source.OneLine(said), Err: err}
	}
	return err
}

func (l *sshLink) close() {
	defer l.stop() // last: until then the deadline still ends a write to a server that does not read
	if l.stdin != nil {
		// An empty request is how a client says that it wants nothing (more).
		_, _ = l.stdin.Write([]byte("0000"))
	}
	l.client.Close()
}

// tail keeps the beginning of what a server writes to its error stream; the rest is read and dropped.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 1024
	t.buf.Write(p[:min(len(p), most-t.buf.Len())])
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
