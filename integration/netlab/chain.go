package netlab

import (
	"fmt"
	"net/netip"
	"testing"
)

// Chain is a client, routers in a row, and a server. The link on the client's side of router i, counted from 0, is
// 198.18.(10+i).0/24 and fd00:(10+i)::/64; its left end has host number 1, its right end 2. Interfaces are named "left" and
// "right" by where they lead.
type Chain struct {
	Client  *Host
	Routers []*Host
	Server  *Host
}

// NewChain builds a chain and arranges for its removal. A failure to build ends the test.
func NewChain(t testing.TB, routers int) *Chain {
	t.Helper()
	RequireRoot(t)
	name, err := reserveName()
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	l := &Lab{name: name}
	c := &Chain{Client: l.host("client"), Server: l.host("server")}
	hosts := []*Host{c.Client}
	for i := range routers {
		c.Routers = append(c.Routers, l.host(fmt.Sprintf("router%d", i+1)))
	}
	hosts = append(append(hosts, c.Routers...), c.Server)
	t.Cleanup(func() {
		for _, h := range hosts {
			h.endAll()
			removeNamespace(h.Name)
		}
	})
	if err := l.buildChain(hosts); err != nil {
		t.Fatalf("netlab: build %s: %v", name, err)
	}
	return c
}

// HostAddr is an address at the left (1) or right (2) end of a link.
func (*Chain) HostAddr(link, end int, ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", 10+link, end))
	}
	return netip.AddrFrom4([4]byte{198, 18, byte(10 + link), byte(end)})
}

// ServerAddr is the server's address.
func (c *Chain) ServerAddr(ipv6 bool) netip.Addr { return c.HostAddr(len(c.Routers), 2, ipv6) }

func (l *Lab) buildChain(hosts []*Host) error {
	for i, h := range hosts {
		if i > 0 {
			if err := run("ip", "netns", "add", h.Name); err != nil {
				return err
			}
		}
		if err := h.script(prepare + `
			sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
			sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`); err != nil {
			return err
		}
		if i > 0 {
			if err := l.link(hosts[i-1], "right", h, "left"); err != nil {
				return err
			}
		}
	}
	for i, h := range hosts {
		script := ""
		if i < len(hosts)-1 {
			script += fmt.Sprintf(`
				ip addr add 198.18.%[1]d.1/24 dev right
				ip addr add fd00:%[1]d::1/64 dev right nodad
				ip route add default via 198.18.%[1]d.2
				ip -6 route add default via fd00:%[1]d::2`, 10+i)
		}
		if i > 0 {
			script += fmt.Sprintf(`
				ip addr add 198.18.%[1]d.2/24 dev left
				ip addr add fd00:%[1]d::2/64 dev left nodad`, 10+i-1)
		}
		for back := range max(i-1, 0) {
			script += fmt.Sprintf(`
				ip route add 198.18.%[1]d.0/24 via 198.18.%[2]d.1
				ip -6 route add fd00:%[1]d::/64 via fd00:%[2]d::1`, 10+back, 10+i-1)
		}
		if err := h.script(script); err != nil {
			return err
		}
	}
	return nil
}
