package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Root is the folder of this repository: the nearest one above the working directory that has both a go.mod and the
// agent's main package.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "agent")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no folder above the working directory holds cmd/agent: run this inside the repository")
		}
		dir = up
	}
}

// ControlPlane returns the embedded control plane kept in dir. Its kubeconfig is dir/kubeconfig, its audit log, which flags
// may ask for with --audit, dir/audit.log.
func ControlPlane(binary, dir string, log io.Writer, flags ...string) Program {
	return Program{
		Path: binary,
		Args: append([]string{"up", "--dir", dir}, flags...),
		Log:  log,
		// It prints one line, when everything is ready.
		Ready: func(ctx context.Context, stdout <-chan string) error {
			select {
			case _, ok := <-stdout:
				if !ok {
					return errors.New("it ended before it was ready; its last lines say why")
				}
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

// AgentConfig is where one agent finds its cluster, keeps its files and listens.
type AgentConfig struct {
	Kubeconfig string
	Storage    string   // folder; kept between runs of one agent, never shared by two
	Flags      []string // further flags
	// Loopback addresses, host:port.
	StorageAddr, MetricsAddr, HealthAddr, ReceiverAddr, EventsAddr string
}

// FreeAddresses fills in addresses that nobody listens on.
func (c *AgentConfig) FreeAddresses() error {
	for _, addr := range []*string{&c.StorageAddr, &c.MetricsAddr, &c.HealthAddr, &c.ReceiverAddr, &c.EventsAddr} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		// Held until all are found, so that they differ.
		defer l.Close()
		*addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return nil
}

// Args returns the agent's command line without its name.
func (c *AgentConfig) Args() []string {
	return append([]string{
		"run",
		"--kubeconfig=" + c.Kubeconfig,
		"--storage-path=" + c.Storage,
		"--storage-addr=" + c.StorageAddr,
		"--storage-adv-addr=" + c.StorageAddr,
		"--metrics-addr=" + c.MetricsAddr,
		"--health-addr=" + c.HealthAddr,
		"--receiverAddr=" + c.ReceiverAddr,
		"--events-addr=" + c.EventsAddr,
	}, c.Flags...)
}

// Agent returns the agent as a program, ready when it says so on /readyz.
func Agent(binary string, c *AgentConfig, env []string, log io.Writer) Program {
	return Program{
		Path: binary,
		Args: c.Args(),
		Env:  env,
		Log:  log,
		Ready: func(ctx context.Context, stdout <-chan string) error {
			ended := make(chan struct{})
			go func() {
				for range stdout {
				}
				close(ended)
			}()
			return c.AwaitReady(ctx, ended)
		},
	}
}

// AwaitReady returns when /readyz answers 200, or with an error when ended is closed or ctx is done first. There is
// nothing to watch on a health endpoint, so this is the one place that asks again and again.
func (c *AgentConfig) AwaitReady(ctx context.Context, ended <-chan struct{}) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		last := c.ready(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("the agent ended before it was ready; its last lines say why")
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", ctx.Err(), last)
		case <-tick.C:
		}
	}
}

func (c *AgentConfig) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.HealthAddr+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz answers %s", resp.Status)
	}
	return nil
}

// AwaitHook returns when an agent takes hooks at a URL: it then answers that they come by POST.
func AwaitHook(ctx context.Context, url string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		last, err := hookAnswer(ctx, url)
		if last == http.StatusMethodNotAllowed {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer of %s: %d, %w", ctx.Err(), url, last, err)
		case <-tick.C:
		}
	}
}

func hookAnswer(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}
