package gitserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// SSH serves the repositories of a Server to one client key.
type SSH struct {
	// Identity is the client's private key, KnownHosts the line for the server's.
	Identity, KnownHosts string

	listener net.Listener
	root     string
	config   *ssh.ServerConfig

	mu       sync.Mutex
	running  sync.WaitGroup
	conns    map[net.Conn]struct{}
	commands int
}

// ServeSSH starts an SSH server on a loopback address for the repositories of s; the caller closes it.
func (s *Server) ServeSSH() (*SSH, error) {
	host, _, err := newKey()
	if err != nil {
		return nil, err
	}
	client, identity, err := newKey()
	if err != nil {
		return nil, err
	}
	v := &SSH{Identity: identity, root: s.root, conns: map[net.Conn]struct{}{}}
	v.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return &ssh.Permissions{}, nil
	}}
	v.config.AddHostKey(host)
	if v.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	name, port, _ := strings.Cut(v.listener.Addr().String(), ":")
	v.KnownHosts = fmt.Sprintf("[%s]:%s %s", name, port, ssh.MarshalAuthorizedKey(host.PublicKey()))
	v.running.Go(v.accept)
	return v, nil
}

func newKey() (ssh.Signer, string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, "", err
	}
	return signer, string(pem.EncodeToMemory(block)), nil
}

// URL is where repositories are, as in URL + "/NAME.git".
func (v *SSH) URL() string { return "ssh://git@" + v.listener.Addr().String() }

// Commands is how often git-upload-pack was run.
func (v *SSH) Commands() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.commands
}

// Close ends the server and every transfer.
func (v *SSH) Close() error {
	err := v.listener.Close()
	v.mu.Lock()
	for conn := range v.conns {
		conn.Close()
	}
	v.mu.Unlock()
	v.running.Wait()
	return err
}

func (v *SSH) accept() {
	for {
		conn, err := v.listener.Accept()
		if err != nil {
			return // closed
		}
		v.mu.Lock()
		v.conns[conn] = struct{}{}
		v.mu.Unlock()
		v.running.Go(func() {
			v.serve(conn)
			v.mu.Lock()
			defer v.mu.Unlock()
			delete(v.conns, conn)
		})
	}
}

func (v *SSH) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, v.config)
	if err != nil {
		return // a client that did not authenticate
	}
	go ssh.DiscardRequests(requests)
	for opened := range channels {
		if opened.ChannelType() != "session" {
			_ = opened.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := opened.Accept()
		if err != nil {
			return
		}
		v.running.Go(func() { v.session(channel, requests) })
	}
}

// uploadPack is the one command that is run, with the path of a repository.
var uploadPack = regexp.MustCompile(`^git-upload-pack '?/?([A-Za-z0-9._-]+\.git)'?$`)

func (v *SSH) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for req := range requests {
		var command struct{ Line string }
		if req.Type != "exec" || ssh.Unmarshal(req.Payload, &command) != nil {
			_ = req.Reply(req.Type == "env", nil) // the version of the protocol comes in the environment and is not used
			continue
		}
		parts := uploadPack.FindStringSubmatch(command.Line)
		_ = req.Reply(parts != nil, nil)
		if parts == nil {
			return
		}
		status := v.run(filepath.Join(v.root, path.Base(parts[1])), channel)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

func (v *SSH) run(repository string, channel ssh.Channel) uint32 {
	v.mu.Lock()
	v.commands++
	v.mu.Unlock()
	cmd := exec.Command("git", "upload-pack", repository)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return 1
	}
	go func() {
		_, _ = io.Copy(in, channel) // ends when the client hangs up
		in.Close()
	}()
	if cmd.Wait() != nil {
		return 1
	}
	return 0
}
