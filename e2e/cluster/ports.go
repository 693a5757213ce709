package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// Free ports are sought below 32768, where Linux begins to give out ports to
// outgoing connections: between our look and the component's own listen, no
// connection of another program can take a port that we chose.
const (
	firstPort = 20000
	lastPort  = 29999
)

// ports are what the components listen on, all on the loopback interface. The
// controller manager, the scheduler and kwok listen on nothing.
type ports struct {
	APIServer  int `json:"apiServer"`
	EtcdClient int `json:"etcdClient"`
	EtcdPeer   int `json:"etcdPeer"`
}

// choosePorts keeps the ports of the last run where they are still free, so
// that a kubeconfig that somebody copied stays valid over a restart.
func choosePorts(file string) (ports, error) {
	p, err := readPorts(file)
	if err != nil {
		return ports{}, err
	}
	for _, port := range []*int{&p.APIServer, &p.EtcdClient, &p.EtcdPeer} {
		if *port != 0 && isFree(*port) {
			continue
		}
		if *port, err = freePort(p); err != nil {
			return ports{}, err
		}
	}
	data, err := json.Marshal(p)
	if err != nil {
		return ports{}, err
	}
	return p, writeFile(file, data)
}

func readPorts(file string) (ports, error) {
	var p ports
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil // the first run
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("reading %s: %w", file, err)
	}
	return p, nil
}

// freePort returns a port that nobody listens on and that is not in taken. It
// begins at a random place so that clusters started at once seldom collide.
func freePort(taken ports) (int, error) {
	const span = lastPort - firstPort + 1
	start := rand.IntN(span)
	for i := range span {
		port := firstPort + (start+i)%span
		used := port == taken.APIServer || port == taken.EtcdClient || port == taken.EtcdPeer
		if !used && isFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between %d and %d", firstPort, lastPort)
}

func isFree(port int) bool {
	l, err := net.Listen("tcp", hostPort(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func hostPort(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
