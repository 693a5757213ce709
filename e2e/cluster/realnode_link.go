package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// The node's network is linked with the machine's by two interfaces. The API
// server listens at the machine's end; pods and services are behind the
// node's. Nothing of it is routed further: pods reach the machine at hostIP,
// and nothing else.
const (
	hostLink = "cleat-node" // at the machine's end
	nodeLink = "eth0"       // at the node's end
	hostIP   = "10.245.0.1"
	nodeIP   = "10.245.0.2"
	linkMask = "/30"
	podCIDR  = "10.244.0.0/24" // as in node/cni.conflist
)

// addLink makes both interfaces and configures the machine's end.
func addLink(init int) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: hostLink},
		PeerName:      nodeLink,
		PeerNamespace: netlink.NsPid(init), // born there, so that it never outlives the node
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("linking the node's network: %w", err)
	}
	if err := bringUp(hostLink, hostIP+linkMask); err != nil {
		return err
	}
	return errors.Join(route(hostLink, podCIDR, nodeIP), route(hostLink, serviceCIDR, nodeIP))
}

func bringUp(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for interface %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

func route(name, cidr, gateway string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for interface %s: %w", name, err)
	}
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: network, Gw: net.ParseIP(gateway)}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("routing %s through %s: %w", cidr, name, err)
	}
	return nil
}

// removeLink removes both ends, if they are there. The kernel does so too when
// the node's last process has ended, but a moment later.
func removeLink() error {
	link, err := netlink.LinkByName(hostLink)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for interface %s: %w", hostLink, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("removing interface %s: %w", hostLink, err)
	}
	return nil
}
