package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// heard is what one connection has brought a kernel's application.
type heard struct {
	octets []byte
	err    error // nil: a clean end
}

// openListener is an application behind a kernel that hands data of SYNs on without any check: net.ipv4.tcp_fastopen =
// 0x203, and a listener that asks for TCP Fast Open.
type openListener struct {
	mu  sync.Mutex
	all []heard
}

func listenOpen(t *testing.T, h *netlab.Host, address string) *openListener {
	t.Helper()
	h.Script(t, "sysctl -qw net.ipv4.tcp_fastopen=0x203")
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 64) }); e != nil {
			return e
		}
		return err
	}}
	var l net.Listener
	if err := h.Do(func() (err error) { l, err = lc.Listen(context.Background(), "tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	o := new(openListener)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, err := io.ReadAll(c)
				if err == nil {
					_, _ = io.WriteString(c, sum(b)) // the client will miss it
				}
				o.mu.Lock()
				o.all = append(o.all, heard{b, err})
				o.mu.Unlock()
			}()
		}
	}()
	return o
}

func (o *openListener) heard() []heard {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]heard(nil), o.all...)
}

// TestInnerSpaceOpenListener has a legacy listener that takes data in SYNs from anyone. With inner_space = auto nobody sends
// it any. With on, the first contact does: what the kernel makes of that is shown, and that the next ones do not.
func TestInnerSpaceOpenListener(t *testing.T) {
	for _, f := range families() {
		for _, mode := range []string{"auto", "on"} {
			t.Run(mode+"/"+f.name, func(t *testing.T) {
				lab := netlab.New(t, netlab.Options{})
				at := f.at(2002)
				server := listenOpen(t, lab.Server, at)
				client := startRun(t, lab.Client, clientConfig+"[tcpinc]\ninner_space = \""+mode+"\"\n")
				capture := lab.Capture(t, "c0", 0, "tcp port 2002")
				const n = 4
				want, gaveUp := 0, true // SYNs with data; whether the connection before may have taught nothing
				for i := range n {
					if mode == "on" && len(client.inner(t, at)) == 0 {
						if !gaveUp {
							t.Errorf("after %d connections nothing is known", i)
						}
						want++
					}
					begin := time.Now()
					if err := exchange(t, ways(lab.Client)[i%2], at); err != nil {
						t.Fatal(err)
					}
					gaveUp = time.Since(begin) > patienceWithUpgraded
				}
				client.waitIdle(t)
				flows, _ := keptFlows(readCapture(t, capture))
				withData := 0
				for _, f := range flows {
					if f.Segments[0].Length > 0 {
						withData++
					}
				}
				if withData != want || len(flows) != n+want {
					t.Errorf("%d of %d SYNs carry data, want %d", withData, len(flows), want)
				}
				whole := 0
				netlab.WaitFor(t, netlab.Patience, "the application's connections", func() error {
					if len(server.heard()) < n {
						return fmt.Errorf("%d", len(server.heard()))
					}
					return nil
				})
				for _, h := range server.heard() {
					u, _ := decode.ParseUpgraded(h.octets)
					switch {
					case h.err == nil && u == nil && len(h.octets) > 100_000:
						whole++
					case mode == "on" && u != nil && h.err != nil:
						// What the manual says of `on`: this kernel hands data of a SYN over before anything can be known of the server.
						t.Logf("an application was given %d octets of a SYN, and then an error: %v", len(h.octets), h.err)
					case mode == "on" && len(h.octets) == 0 && h.err != nil:
						t.Logf("an application was given a connection that ended in an error: %v", h.err)
					default:
						t.Errorf("the application was given %d octets, %v", len(h.octets), h.err)
					}
				}
				if whole != n {
					t.Errorf("%d of %d transfers", whole, n)
				}
				if r := client.newest(t, to(at)); r.Encrypted || r.FallbackReason != "peer-no-eno" {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

// At first contact a client waits so long for an answer to either of its SYNs; if it could not run until then, it has learnt
// nothing. When the ordinary one has been answered it waits so long for the other's answer, or else takes it for lost.
const (
	patienceWithUpgraded = 900 * time.Millisecond
	graceForUpgraded     = 50 * time.Millisecond
)

// inner returns what a daemon remembers of a destination and Inner Space.
func (d *daemon) inner(t *testing.T, address string) (all []string) {
	t.Helper()
	for _, m := range d.paths(t) {
		if m.Destination == address && m.Inner != "" {
			all = append(all, m.Inner)
		}
	}
	return all
}

// TestInnerSpaceKernelListener has an ordinary listener of the kernel's, with the usual setting of TCP Fast Open: it is never
// given anything of a SYN, nor a connection too many.
func TestInnerSpaceKernelListener(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	var mu sync.Mutex
	conns, wrong := 0, 0
	lab.Server.Serve(t, ":2002", func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		mu.Lock()
		defer mu.Unlock()
		conns++
		if u, _ := decode.ParseUpgraded(b); err != nil || u != nil {
			wrong++
			return
		}
		_, _ = io.WriteString(c, sum(b)) // the client will miss it
	})
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\ninner_space = \"on\"\n")
	n := 0
	for _, f := range families() {
		for i := 0; i < 3; i++ {
			begin := time.Now()
			if err := exchange(t, ways(lab.Client)[i%2], f.at(2002)); err != nil {
				t.Fatal(err)
			}
			n++
			if i == 0 && n < 20 && time.Since(begin) >= graceForUpgraded && strings.Join(client.inner(t, f.at(2002)), " ") != "legacy" {
				i-- // it could not run when the second answer came: once more, as if it were the first contact
				client.flush(t)
			}
		}
	}
	client.waitIdle(t)
	mu.Lock()
	defer mu.Unlock()
	if conns != n || wrong != 0 {
		t.Errorf("%d connections of %d, %d with something wrong", conns, n, wrong)
	}
	legacy := 0
	for _, m := range client.paths(t) {
		if m.Inner == "legacy" && m.Kind == "destination" && m.InnerForMS > 9*60_000 && m.InnerAgoMS > 0 {
			legacy++
		}
	}
	if legacy != 2 {
		t.Errorf("%+v", client.paths(t))
	}
}

// dropSYNData makes the router drop SYNs and SYN-ACKs that carry data.
func dropSYNData(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	lab.Router.Script(t, `
		nft add table inet syndata
		nft add chain inet syndata forward '{ type filter hook forward priority -10; }'
		nft add rule inet syndata forward 'ip protocol tcp tcp flags & syn == syn ip length gt 80 counter drop'
		nft add rule inet syndata forward 'ip6 nexthdr tcp tcp flags & syn == syn ip6 length gt 60 counter drop'`)
}

// TestInnerSpacePaths has what is learnt of destinations show in `innertun paths`, and next connections go by it.
func TestInnerSpacePaths(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startServe(t, lab.Server, "2001", "127.0.0.1:9001")
	w := ways(lab.Client)[0]
	at := families()[0].at(2001)
	for _, mode := range []string{"auto", "on"} {
		t.Run(mode, func(t *testing.T) {
			client := startRun(t, lab.Client, clientConfig+"[tcpinc]\nresume = false\npolicy = \"require\"\ninner_space = \""+mode+"\"\n")
			for range 2 {
				dialled(t, client, w, at, true)
			}
			if got := client.inner(t, at); strings.Join(got, " ") != "upgraded" {
				t.Errorf("%q", got)
			}
			dropSYNData(t, lab)
			defer lab.Router.Script(t, "nft delete table inet syndata")
			capture := lab.Capture(t, "c0", 0, "tcp port 2001")
			for i, quick := range []bool{false, true} {
				watch := netlab.StartStopwatch()
				r := dialled(t, client, w, at, true)
				wall, own := watch.Took()
				if quick && own > 900*time.Millisecond || !quick && wall < 900*time.Millisecond || !r.Encrypted || !r.InnerSpace || r.Downgraded {
					t.Errorf("connection %d took %v, %v of it by itself: %+v", i, wall, own, r)
				}
			}
			client.waitIdle(t)
			if got := client.inner(t, at); strings.Join(got, " ") != "upgraded eats-syn-data" {
				t.Errorf("%q", got)
			}
			// The SYN-U is given up for an ordinary SYN. Where the server cannot run, other connections may be, too.
			segs := readCapture(t, capture)
			flows, _ := decode.Flows(segs)
			kept, _ := keptFlows(segs)
			withData := 0
			for _, f := range flows {
				if f.Segments[0].Length > 0 {
					withData++
				}
			}
			if len(kept) != 2 || withData != 1 || flows[0].Segments[0].Length == 0 || slices.ContainsFunc(kept, func(f *decode.Flow) bool { return f.A == flows[0].A }) {
				t.Errorf("%d of %d connections, %d with data in the SYN", len(kept), len(flows), withData)
			}
			if out, err := client.command("paths"); err != nil || !bytes.Contains(out, []byte("eats-syn-data ")) || !bytes.Contains(out, []byte("upgraded ")) {
				t.Errorf("%v\n%s", err, out)
			}
			client.flush(t)
			if got := client.inner(t, at); strings.Join(got, " ") != "upgraded" {
				t.Errorf("after a flush: %q", got)
			}
		})
	}
}

// TestInnerSpaceStripped has a box take all options of kind 69 away once it is known that the destination speaks Inner
// Space: SYN-Us pass it, and nothing is lost.
func TestInnerSpaceStripped(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startServe(t, lab.Server, "2001", "127.0.0.1:9001")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\npolicy = \"require\"\n")
	server := families()[1].at(2001)
	dialled(t, client, ways(lab.Client)[0], server, true)
	lab.StripENO(t, netlab.All, netlab.Both)
	for i := range 4 {
		if r := dialled(t, client, ways(lab.Client)[i%2], server, true); !r.Encrypted || !r.InnerSpace || r.Downgraded || r.Resumed == (i == -1) {
			t.Errorf("%+v", r)
		}
	}
	lab.ClearMiddlebox(t)
	lab.DropENO(t, netlab.SYN, netlab.Both)
	for i := range 4 {
		if r := dialled(t, client, ways(lab.Client)[i%2], server, true); !r.Encrypted || !r.InnerSpace {
			t.Errorf("%+v", r)
		}
	}
}

// TestInnerSpaceModes has the configuration's words come out on the wire: by file, by rule, by served port.
func TestInnerSpaceModes(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n"+
		"[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n"+
		"[[serve]]\nlisten = \":2003\"\nforward = \"127.0.0.1:9001\"\ninner_space = \"off\"\n")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\nresume = false\n"+
		"[[rule]]\nto = [\"198.18.2.2\"]\nport = [2001, 2003]\npolicy = \"require\"\ninner_space = \"on\"\n"+
		"[[rule]]\nto = [\"fd00:2::2\"]\nport = [2003]\npolicy = \"require\"\ninner_space = \"off\"\n")
	for _, v := range []struct {
		family int
		port   uint16
		inner  bool
		marked bool    // its ordinary SYNs
		first  [2]bool // whether the two connections' SYNs are upgraded ones too
	}{
		{0, 2001, true, true, [2]bool{true, true}},
		{0, 2003, false, true, [2]bool{true, false}},
		{1, 2001, true, true, [2]bool{false, true}},
		{1, 2003, false, false, [2]bool{false, false}},
	} {
		at := families()[v.family].at(v.port)
		for i := 0; i < 2; i++ {
			capture := lab.Capture(t, "c0", 0, "tcp")
			begin := time.Now()
			r := dialled(t, client, ways(lab.Client)[i], at, true)
			gaveUp := time.Since(begin) > patienceWithUpgraded
			if !r.Encrypted || r.InnerSpace != v.inner {
				t.Errorf("%s: %+v", at, r)
			}
			client.waitIdle(t)
			segs := readCapture(t, capture)
			flows, _ := keptFlows(segs)
			upgraded, marked := false, false
			for _, f := range flows {
				upgraded = upgraded || f.Segments[0].Length > 0
				if enos, err := f.Segments[0].ENO(); err == nil && len(enos) == 1 {
					marked = marked || bytes.HasPrefix(enos[0][2:], []byte{0x81, 0xa0, 0x49, 0x53})
				}
			}
			ordinary := !v.first[i] || i == 0 && v.first[0]
			if upgraded != v.first[i] || marked != (v.marked && ordinary) {
				t.Errorf("%s, connection %d: a SYN-U %v, the mark %v", at, i, upgraded, marked)
			}
			if i == 0 && v.first[0] && gaveUp && len(client.inner(t, at)) == 0 {
				i-- // the next one is the first contact still
			}
		}
	}
}

// TestInnerSpaceRoundTrips has a real curl wait for the first octet of a reply, over a path with delay.
func TestInnerSpaceRoundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	lab := netlab.New(t, netlab.Options{Wire: true})
	startPath(t, lab, "left", "right", "delay:time=50ms")
	lab.Server.StartNginx(t, 1000, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	for _, f := range families() { // or the server's netstack asks for its neighbours first
		lab.Client.MustRun(t, "curl", "-sSf", "--max-time", "60", "-o", "/dev/null", "http://"+f.at(80)+"/file")
	}
	for _, v := range []struct {
		mode string
		want [3]float64 // of connections one after the other
	}{
		{"off", [3]float64{3, 3, 3}},
		{"auto", [3]float64{3, 2, 2}},
		{"on", [3]float64{2, 2, 2}},
	} {
		t.Run(v.mode, func(t *testing.T) {
			// The machine may make anything take longer: the best of some runs counts, each from a client that knows nothing.
			var best [2][3]float64 // in round trips
			const runs = 6
			for run := range runs {
				over := false
				for i, got := range firstOctets(t, lab, v.mode, v.want, rtt) {
					for n, took := range got {
						if run == 0 || took < best[i][n] {
							best[i][n] = took
						}
						over = over || best[i][n] > v.want[n]+0.7
					}
				}
				if !over {
					return
				}
			}
			t.Errorf("in the best of %d runs the replies began after %.2f round trips, want %v", runs, best, v.want)
		})
	}
}

// firstOctets is how many round trips curl waits for the reply's first octet, on connections one after the other through TUN
// and SOCKS, less the time for which nothing ran.
func firstOctets(t *testing.T, lab *netlab.Lab, mode string, want [3]float64, rtt time.Duration) (took [2][3]float64) {
	t.Helper()
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\nresume = false\npolicy = \"require\"\ninner_space = \""+mode+"\"\n")
	for i, w := range ways(lab.Client) {
		f := families()[i] // what is known of one destination is not known of the other
		for n := range want {
			args := append([]string{"curl", "-sSf", "--max-time", "60", "-o", "/dev/null", "-w", "%{time_starttransfer}"}, w.curl...)
			watch := netlab.StartStopwatch()
			out := lab.Client.MustRun(t, append(args, "http://"+f.at(80)+"/file")...)
			wall, own := watch.Took()
			seconds, err := strconv.ParseFloat(out, 64)
			if err != nil {
				t.Fatal(err)
			}
			if seconds < want[n]*rtt.Seconds() {
				t.Errorf("%s, connection %d: the reply began after %.3f s, want %v round trips of %v", w.name, n, seconds, want[n], rtt)
			}
			took[i][n] = (seconds - (wall - own).Seconds()) / rtt.Seconds()
			if r := client.newest(t, to(f.at(80))); r.InnerSpace != (mode != "off") || !r.Encrypted {
				t.Errorf("%+v", r)
			}
		}
	}
	client.stop(t)
	return took
}
