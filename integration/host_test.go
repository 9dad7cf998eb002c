package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// snapshot is all of a host that innertun may change, by the command that shows it.
func snapshot(t *testing.T, h *netlab.Host) map[string]string {
	t.Helper()
	s := make(map[string]string)
	for _, command := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip addr",
		// Counters and the like change by themselves.
		"sysctl -a 2>/dev/null | grep '^net\\.' | grep -v -e nf_conntrack_count -e '\\.stat_refresh' | sort",
	} {
		s[command] = h.MustRun(t, "sh", "-c", command)
	}
	return s
}

func compare(t *testing.T, when string, before, after map[string]string) {
	t.Helper()
	for command, want := range before {
		if got := after[command]; got != want {
			t.Errorf("%s: %s differs:\n%s", when, command, difference(want, got))
		}
	}
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	var out strings.Builder
	list := func(mark, all, known string) {
		seen := make(map[string]bool)
		for line := range strings.Lines(known) {
			seen[line] = true
		}
		for line := range strings.Lines(all) {
			if !seen[line] {
				out.WriteString(mark + line)
			}
		}
	}
	list("- ", before, after)
	list("+ ", after, before)
	return out.String()
}

// talk is a connection of the host's own kernel on which something is said now and then.
type talk struct {
	conn net.Conn
	stop chan struct{}
	wg   sync.WaitGroup
	err  error // once wg is done
	said atomic.Int32
	gone atomic.Bool
}

func startTalk(c net.Conn) *talk {
	k := &talk{conn: c, stop: make(chan struct{})}
	k.wg.Go(func() {
		defer k.gone.Store(true)
		for ; ; k.said.Add(1) {
			select {
			case <-k.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if k.err = sayOnce(c, int(k.said.Load())); k.err != nil {
				return
			}
		}
	})
	return k
}

func sayOnce(c net.Conn, n int) error {
	want := fmt.Appendf(nil, "word %8d", n)
	if err := c.SetDeadline(time.Now().Add(netlab.Patience)); err != nil {
		return err
	}
	if _, err := c.Write(want); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w echo %q", errUnexpected, got)
	}
	return nil
}

// end stops the talk, not before three more words, and checks that nothing disturbed it.
func (k *talk) end(t *testing.T, name string) {
	t.Helper()
	last := k.said.Load() + 3
	netlab.WaitFor(t, netlab.Patience, name+" to go on", func() error {
		if n := k.said.Load(); n < last && !k.gone.Load() {
			return fmt.Errorf("%d words, want %d", n, last)
		}
		return nil
	})
	close(k.stop)
	k.wg.Wait()
	_ = k.conn.Close()
	if k.err != nil {
		t.Errorf("%s: disturbed after %d words: %v", name, k.said.Load(), k.err)
	}
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) } // ends with the connection

// TestHostUndisturbed has the host's own connections over the same interface go on before, during and after.
func TestHostUndisturbed(t *testing.T) {
	for rp := range 2 {
		t.Run(fmt.Sprintf("rp_filter %d", rp), func(t *testing.T) {
			lab := netlab.New(t, netlab.Options{RPFilter: rp})
			web := lab.Server.StartNginx(t, 4<<20, "127.0.0.1:8080")
			for _, h := range []*netlab.Host{lab.Client, lab.Server} {
				h.Serve(t, ":7000", echo)
			}
			dial := func(from *netlab.Host, address string) net.Conn {
				t.Helper()
				c, err := from.Dial(t.Context(), "tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			before := map[string]*talk{
				"outgoing, before, ipv4": startTalk(dial(lab.Client, "198.18.2.2:7000")),
				"outgoing, before, ipv6": startTalk(dial(lab.Client, "[fd00:2::2]:7000")),
				"incoming, before, ipv4": startTalk(dial(lab.Server, "198.18.1.2:7000")),
				"incoming, before, ipv6": startTalk(dial(lab.Server, "[fd00:1::2]:7000")),
			}
			clientBefore, serverBefore := snapshot(t, lab.Client), snapshot(t, lab.Server)
			server := startServe(t, lab.Server, "80", "127.0.0.1:8080")
			client := startRun(t, lab.Client, clientConfig+"[[rule]]\nto = [\"198.18.2.2\"]\nport = [7000]\npolicy = \"off\"\n")

			during := map[string]*talk{
				"incoming at client, ipv4": startTalk(dial(lab.Server, "198.18.1.2:7000")),
				"incoming at client, ipv6": startTalk(dial(lab.Server, "[fd00:1::2]:7000")),
				"through the TUN, ipv4":    startTalk(dial(lab.Client, "198.18.2.2:7000")),
				"through the TUN, ipv6":    startTalk(dial(lab.Client, "[fd00:2::2]:7000")),
			}
			for _, w := range ways(lab.Client) {
				for _, f := range families() {
					if got, err := get(t.Context(), w, f.at(80), 0, len(web.Data)); err != nil || !bytes.Equal(got, web.Data) {
						t.Errorf("%s, %s: %d octets, %v", w.name, f.name, len(got), err)
					}
					if r := client.newest(t, to(f.at(80))); !r.Encrypted {
						t.Errorf("%s, %s: %+v", w.name, f.name, r)
					}
				}
			}
			// Loopback and the host's own addresses never go through the TUN, nor does UDP anywhere.
			for _, local := range []string{"127.0.0.1:7000", "198.18.1.2:7000", "[fd00:1::2]:7000"} {
				startTalk(dial(lab.Client, local)).end(t, local)
			}
			udp(t, lab)
			for name, k := range during {
				k.end(t, name)
			}
			client.waitIdle(t)
			for _, r := range client.conns(t) {
				if strings.HasPrefix(r.Remote, "198.18.1.2") || strings.HasPrefix(r.Remote, "127.") {
					t.Errorf("local connection was diverted: %+v", r)
				}
			}
			for _, d := range []*daemon{client, server} {
				if code, err := d.Stop(); code != 0 || err != nil {
					t.Errorf("%s: status %d, %v\n%s", d.host.Role, code, err, tail(d.Log()))
				}
			}
			compare(t, "client after exit", clientBefore, snapshot(t, lab.Client))
			compare(t, "server after exit", serverBefore, snapshot(t, lab.Server))
			startTalk(dial(lab.Client, "198.18.2.2:7000")).end(t, "outgoing, after")
			startTalk(dial(lab.Server, "198.18.1.2:7000")).end(t, "incoming, after")
			for name, k := range before {
				k.end(t, name)
			}
		})
	}
}

func udp(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	var pc net.PacketConn
	var c net.Conn
	if err := lab.Server.Do(func() (err error) { pc, err = net.ListenPacket("udp", "198.18.2.2:7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := lab.Client.Do(func() (err error) { c, err = net.Dial("udp", "198.18.2.2:7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	_ = pc.SetReadDeadline(time.Now().Add(netlab.Patience))
	if n, from, err := pc.ReadFrom(b); err != nil || string(b[:n]) != "hello" || !strings.HasPrefix(from.String(), "198.18.1.2:") {
		t.Errorf("UDP: %q from %v, %v", b[:n], from, err)
	}
}

// TestKilled ends innertun with SIGKILL: `down` or the next run leave the host as it was.
func TestKilled(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080")
	lab.Server.Serve(t, "198.18.2.2:7000", echo)
	both := clientConfig + "[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\n"
	for _, h := range []*netlab.Host{lab.Client, lab.Server} {
		t.Run(h.Role, func(t *testing.T) {
			before := snapshot(t, h)
			dir := shortDir(t)
			d := startRunIn(t, h, dir, both)
			if during := snapshot(t, h); during["nft list ruleset"] == before["nft list ruleset"] || during["ip rule"] == before["ip rule"] {
				t.Error("nothing seems to have been set up; this test proves nothing")
			}
			t.Run("second daemon", func(t *testing.T) {
				o := h.Run(t.Context(), innertunBinary(t), "run", "-c", filepath.Join(dir, "config.toml"), "--control", d.control)
				if o.Code != 1 || !strings.Contains(o.Stderr, fmt.Sprint(d.PID())) {
					t.Errorf("status %d, want 1 and the pid %d named: %s", o.Code, d.PID(), o.Stderr)
				}
				d.mustAlive(t)
			})
			d.Kill()
			down(t, h, d.control)
			compare(t, "after kill -9 and down", before, snapshot(t, h))
			down(t, h, d.control) // once more does no harm
			compare(t, "after a second down", before, snapshot(t, h))

			d = startRunIn(t, h, dir, both)
			d.Kill()
			d = startRunIn(t, h, dir, both)
			d.mustAlive(t)
			if code, err := d.Stop(); code != 0 || err != nil {
				t.Errorf("status %d, %v\n%s", code, err, tail(d.Log()))
			}
			compare(t, "after kill -9, restart and exit", before, snapshot(t, h))
		})
	}
	c, err := lab.Client.Dial(t.Context(), "tcp", "198.18.2.2:7000")
	if err != nil {
		t.Fatal(err)
	}
	startTalk(c).end(t, "after all")
}

// TestNarrowPath has a path whose MTU only ICMP tells.
func TestNarrowPath(t *testing.T) {
	for _, first := range []string{"download", "upload"} {
		t.Run(first, func(t *testing.T) {
			lab := netlab.New(t, netlab.Options{PathMTU: 1280})
			web := lab.Server.StartNginx(t, 4<<20, "127.0.0.1:8080", "198.18.2.2:8081", "[fd00:2::2]:8081")
			startServe(t, lab.Server, "80", "127.0.0.1:8080")
			client := startRun(t, lab.Client, clientConfig)
			body := pattern(2, 2<<20)
			for i, w := range ways(lab.Client) {
				for _, f := range families() {
					for _, port := range []uint16{80, 8081} { // encrypted, and plain with a kernel at the far end
						name := fmt.Sprintf("%d-%s-%d", i, f.name, port)
						steps := []func() error{
							func() error {
								got, err := get(t.Context(), w, f.at(port), 0, len(web.Data))
								if err == nil && !bytes.Equal(got, web.Data) {
									err = fmt.Errorf("%w octets", errUnexpected)
								}
								return err
							},
							func() error { return putAndCheck(t.Context(), w, web, f.at(port), name, body) },
						}
						if first == "upload" {
							steps[0], steps[1] = steps[1], steps[0]
						}
						for n, step := range steps {
							watch := netlab.StartStopwatch()
							if err := step(); err != nil {
								t.Errorf("%s %s, port %d, step %d: %v", w.name, f.name, port, n, err)
							}
							if wall, own := watch.Took(); own > 5*time.Second {
								t.Errorf("%s %s, port %d, step %d took %v, %v of it by itself", w.name, f.name, port, n, wall, own)
							}
							if r := client.newest(t, to(f.at(port))); r.Encrypted != (port == 80) {
								t.Errorf("%+v", r)
							}
						}
					}
				}
			}
		})
	}
}

// TestDecodeIsStrict makes sure that a capture of an encrypted connection does not decrypt with other keys.
func TestDecodeIsStrict(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig)
	capture := lab.Capture(t, "c0", 0, "tcp")
	if _, err := get(t.Context(), ways(lab.Client)[0], families()[0].at(80), 0, 100_000); err != nil {
		t.Fatal(err)
	}
	client.waitIdle(t)
	flows, _ := keptFlows(readCapture(t, capture))
	keys, err := decode.ReadKeyLog(client.keylog)
	if err != nil || len(flows) != 1 || len(keys) != 1 {
		t.Fatal(len(flows), len(keys), err)
	}
	if _, err := flows[0].Decrypt(keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range [][]byte{keys[0].AB, keys[0].BA} {
		k[0] ^= 1
		if _, err := flows[0].Decrypt(keys); err == nil {
			t.Error("decrypted with a wrong key")
		}
		k[0] ^= 1
	}
}
