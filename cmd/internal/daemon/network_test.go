package daemon

import (
	"net"
	"net/netip"
	"testing"

	"innertun/stack/egress"
)

func TestNetworkName(t *testing.T) {
	i := egress.Interface{Name: "eth0", Addresses: []netip.Prefix{
		netip.MustParsePrefix("198.18.1.2/24"), netip.MustParsePrefix("fd00:1::2/64"),
	}}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, v := range []struct {
		want    string
		i       egress.Interface
		family  int
		gateway string
		mac     net.HardwareAddr
	}{
		{"eth0 198.18.1.0/24 via 198.18.1.1 at 02:00:00:00:00:01", i, 0, "198.18.1.1", mac},
		{"eth0 fd00:1::/64 via fe80::1 at 02:00:00:00:00:01", i, 1, "fe80::1", mac},
		{"eth0 198.18.1.0/24 via 198.18.1.1", i, 0, "198.18.1.1", nil},
		{"eth0 198.18.1.0/24", i, 0, "", nil},
		{"eth0", egress.Interface{Name: "eth0"}, 1, "", nil},
	} {
		gateway, _ := netip.ParseAddr(v.gateway)
		if got := networkName(v.i, v.family, gateway, v.mac); got != v.want {
			t.Errorf("%q, want %q", got, v.want)
		}
	}
}

func TestNetworkByRoute(t *testing.T) {
	var n network
	if got := n.leadingTo(netip.MustParseAddr("198.18.0.1")); got != "" {
		t.Errorf("%q before the first look", got)
	}
	route := func(to, gateway string) egress.Route {
		g, _ := netip.ParseAddr(gateway)
		return egress.Route{Prefix: netip.MustParsePrefix(to), Gateway: g}
	}
	routes := []egress.Route{route("198.18.1.0/24", ""), route("198.18.8.0/24", "198.18.1.9"), route("0.0.0.0/0", "198.18.1.1"),
		route("fe80::/64", ""), route("::/0", "fe80::1")}
	var ways []way
	i := egress.Interface{Name: "eth0"}
	for _, r := range routes {
		ways = append(ways, way{r.Prefix, networkName(i, family(r.Prefix.Addr()), r.Gateway, nil)})
	}
	n.ways.Store(&ways)
	for addr, want := range map[string]string{
		"198.18.1.7": "eth0", "198.18.8.7": "eth0 via 198.18.1.9", "198.18.2.7": "eth0 via 198.18.1.1",
		"fd00::1": "eth0 via fe80::1", "fe80::7%eth0": "eth0",
	} {
		if got := n.leadingTo(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}
