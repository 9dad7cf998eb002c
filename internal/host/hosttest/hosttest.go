// Package hosttest gives tests network namespaces of their own and a picture of everything in them that could change.
//
//	 app (the test's thread)                 peer
//	+------------------------+      +------------------------+
//	| eth0 198.18.77.1/24    |------| eth0 198.18.77.2/24    |
//	|      fd77::1/64        | veth |      fd77::2/64        |
//	+------------------------+      +------------------------+
//
// The namespaces have no name and are gone with the thread, whatever becomes of the test.
package hosttest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
)

// Addresses of the two hosts of [Pair].
const (
	App4, App6   = "198.18.77.1", "fd77::1"
	Peer4, Peer6 = "198.18.77.2", "fd77::2"
)

// Enter puts the test into a new network namespace with loopback up, for the rest of its life. The test keeps its
// thread, which ends with it, so subtests run elsewhere: call Enter in each.
func Enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread is not to be used again
	handle, err := netns.New()
	if err != nil {
		t.Fatalf("new network namespace (root is needed): %v", err)
	}
	handle.Close() // the thread holds it
	Run(t, "ip", "link", "set", "lo", "up")
}

// Peer is another host.
type Peer struct {
	t      testing.TB
	handle netns.NsHandle
}

// Pair enters a namespace and links it to another one.
func Pair(t testing.TB) *Peer {
	t.Helper()
	Enter(t)
	peer := NewPeer(t)
	Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", peer.path())
	address := func(v4, v6 string) {
		Run(t, "ip", "addr", "add", v4+"/24", "dev", "eth0")
		Run(t, "ip", "addr", "add", v6+"/64", "dev", "eth0", "nodad")
		Run(t, "ip", "link", "set", "eth0", "addrgenmode", "none", "up")
	}
	address(App4, App6)
	Run(t, "ip", "route", "add", "default", "via", Peer4)
	Run(t, "ip", "-6", "route", "add", "default", "via", Peer6)
	peer.Do(func() {
		address(Peer4, Peer6)
		settle(t)
	})
	settle(t)
	return peer
}

// NewPeer makes a namespace beside the one the thread is in.
func NewPeer(t testing.TB) *Peer {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	handle, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	p := &Peer{t: t, handle: handle}
	t.Cleanup(func() { handle.Close() })
	Run(t, "ip", "link", "set", "lo", "up")
	if err := netns.Set(here); err != nil {
		t.Fatal(err)
	}
	return p
}

// Adopt moves an interface of the test's namespace into the peer's.
func (p *Peer) Adopt(link string) {
	p.t.Helper()
	Run(p.t, "ip", "link", "set", link, "netns", p.path())
}

func (p *Peer) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(p.handle)) }

// Do runs f in the peer's namespace, on the same thread.
func (p *Peer) Do(f func()) {
	p.t.Helper()
	here, err := netns.Get()
	if err != nil {
		p.t.Fatal(err)
	}
	defer here.Close()
	if err := netns.Set(p.handle); err != nil {
		p.t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(here); err != nil {
			p.t.Error(err)
		}
	}()
	f()
}

// settle waits until the kernel has done all that follows from the link being up.
func settle(t testing.TB) {
	t.Helper()
	for range 2000 {
		addr, routes := Run(t, "ip", "addr", "show", "dev", "eth0"), Run(t, "ip", "-6", "route", "show", "table", "all")
		waiting := strings.Contains(addr, "tentative") || strings.Contains(routes, "linkdown")
		own := strings.Contains(routes, "local "+App6+" dev eth0") || strings.Contains(routes, "local "+Peer6+" dev eth0")
		if !waiting && own && strings.Contains(addr, "state UP") && strings.Contains(routes, "ff00::/8 dev eth0") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the link does not come up")
}

// Run runs a command in the namespace of the test's thread and returns its output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Picture is everything in a namespace that innertun could have changed, as the system's own tools print it.
type Picture map[string]string

// counting are the parameters that change by themselves.
var counting = regexp.MustCompile(`(?m)^net\.netfilter\.nf_conntrack_count = .*\n`)

// Look takes the picture of the namespace of the test's thread.
func Look(t testing.TB) Picture {
	t.Helper()
	p := Picture{}
	for _, command := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip addr", "sysctl -a --pattern ^net",
	} {
		args := strings.Fields(command)
		out, err := exec.Command(args[0], args[1:]...).Output() // sysctl complains about write-only ones
		if err != nil && args[0] != "sysctl" {
			t.Fatalf("%s: %v", command, err)
		}
		if len(out) == 0 && args[0] != "nft" && args[1] != "-6" {
			t.Fatalf("%s printed nothing", command)
		}
		p[command] = counting.ReplaceAllString(string(out), "")
	}
	return p
}

// Same fails the test if the namespace does not look as it did in before.
func Same(t testing.TB, before Picture) {
	t.Helper()
	if diff := cmp.Diff(before, Look(t)); diff != "" {
		t.Errorf("not as before (-before +now):\n%s", diff)
	}
}

// Differs fails the test if the named part of the picture is as it was: a check that the test checks anything.
func Differs(t testing.TB, before Picture, parts ...string) {
	t.Helper()
	now := Look(t)
	for _, part := range parts {
		if _, known := before[part]; !known || before[part] == now[part] {
			t.Errorf("%q shows no change", part)
		}
	}
}
