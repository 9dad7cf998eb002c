package integration

import (
	"bytes"
	"encoding/hex"
	"errors"
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

	"innertun/integration/decode"
	"innertun/integration/netlab"
	"innertun/integration/tshark"
)

// earlyRule has early data sent to port 80 and 2001 of anywhere.
const earlyRule = "[[rule]]\nport = [80, 2001]\npolicy = \"opportunistic\"\nearly_data = true\n"

const earlyServe = "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\nearly_data = true\n" +
	"[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\nearly_data = true\n"

// inTime is how late an application may be with its first octets for them to leave in the SYN, less some room. One that
// could not run for longer goes without early data, and rightly.
const inTime = 30 * time.Millisecond

// firstOctet is when curl had the first octet of the reply, since it began to connect, and for how long it or others could
// not run meanwhile.
func firstOctet(t *testing.T, lab *netlab.Lab, extra []string, url string) (took, waited time.Duration) {
	t.Helper()
	watch := netlab.StartStopwatch()
	out := lab.Client.MustRun(t, "sh", "-c", "curl -sSf --max-time 60 -o /dev/null -w '%{time_starttransfer}' "+strings.Join(extra, " ")+" '"+url+"'")
	wall, own := watch.Took()
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second)), wall - own
}

// TestEarlyData has curl and nginx, which know nothing of it, spend one round trip: the request leaves in the SYN, and the
// reply follows the SYN-ACK.
func TestEarlyData(t *testing.T) {
	const rtt = 200 * time.Millisecond
	lab := netlab.New(t, netlab.Options{Wire: true})
	startPath(t, lab, "left", "right", "delay:time=100ms")
	web := lab.Server.StartNginx(t, 100_000, "127.0.0.1:8080")
	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				server := startRun(t, lab.Server, earlyServe)
				client := startRun(t, lab.Client, clientConfig+earlyRule)
				capture := lab.Capture(t, "c0", 0, "tcp port 80")
				url := "http://" + f.at(80) + "/file"
				fetch(t, lab, w.curl, url, web.SHA256)
				client.waitIdle(t)
				server.waitIdle(t)
				const n, most = 5, 40
				best := time.Hour           // the machine has other things to do, too
				waits := []time.Duration{0} // of each connection
				connections, early := 1, 0
				for ; early < n && connections < most; connections++ {
					took, waited := firstOctet(t, lab, w.curl, url)
					client.waitIdle(t)
					server.waitIdle(t)
					waits = append(waits, waited)
					if client.newest(t, to(f.at(80))).EarlyData {
						early++
						if took < rtt {
							t.Errorf("curl had the first octet after %v, with a round trip of %v", took, rtt)
						}
						best = min(best, took-waited)
					} else if waited < inTime {
						t.Errorf("connection %d had no early data", connections)
					}
				}
				if early < n || best > rtt+3*rtt/4 {
					t.Errorf("curl had the first octet after %v, with a round trip of %v; %d of %d connections with early data", best, rtt, early, connections)
				}
				watch := netlab.StartStopwatch()
				fetch(t, lab, w.curl, url, web.SHA256)
				connections++
				client.waitIdle(t)
				server.waitIdle(t)
				wall, own := watch.Took()
				waits = append(waits, wall-own)
				segs := readCapture(t, capture)
				all := sessions(t, segs, client)
				flows, _ := keptFlows(segs)
				if len(all) != connections {
					t.Fatalf("%d connections", len(all))
				}
				atOnce := 0
				for i, s := range all {
					if !bytes.HasPrefix(s.AtoB.Data, []byte("GET /file HTTP/1.1\r\n")) || bytes.Count(s.AtoB.Data, []byte("GET ")) != 1 || !bytes.HasSuffix(s.BtoA.Data, web.Data) {
						t.Errorf("connection %d: %q", i, s.AtoB.Data)
					}
					checkClean(t, segs, s, decode.Markers(web.Data, 8, 24))
					checkRecords(t, client, server, s)
					if i == 0 {
						continue
					}
					if !s.Resumed || !s.InnerSpace {
						t.Errorf("connection %d: resumed %v, Inner Space %v", i, s.Resumed, s.InnerSpace)
					}
					a, b := s.Keys.A.String(), s.Keys.B.String()
					for _, r := range []record{
						client.newest(t, func(r record) bool { return r.Local == a && r.Remote == b }),
						server.newest(t, func(r record) bool { return r.Local == b && r.Remote == a }),
					} {
						if r.EarlyData != (len(s.Early) > 0) || !r.Resumed || !r.InnerSpace {
							t.Errorf("connection %d: %d octets of early data in %d: %+v", i, len(s.Early), s.EarlyPayload, r)
						}
					}
					switch { // a server that could not run for a round trip replies to more than it needs
					case len(s.Early) == 0:
					case repliesToSYN(t, flows[i]):
						atOnce++
					case waits[i] < rtt/2:
						t.Errorf("connection %d: the reply waits for more than the SYN", i)
					}
				}
				if atOnce == 0 {
					t.Error("every reply waits for more than the SYN")
				}
			})
		}
	}
}

// repliesToSYN tells whether B's first data had seen nothing of A's but the SYN: A's next segment is the verdict on the
// early data.
func repliesToSYN(t *testing.T, f *decode.Flow) bool {
	t.Helper()
	seen := f.Segments[0].Seq + 1 + uint32(f.Segments[0].Length)
	for _, g := range f.Segments {
		if f.Direction(g) == decode.BtoA && g.Flags&decode.SYN == 0 && g.Length > 0 {
			return g.Ack == seen
		}
	}
	t.Fatal("no reply")
	return false
}

// counting counts the requests that reach the service.
type counting struct {
	mu  sync.Mutex
	all []string
}

func (c *counting) serve(conn *net.TCPConn) {
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return
	}
	c.mu.Lock()
	c.all = append(c.all, string(b))
	c.mu.Unlock()
	_, _ = io.WriteString(conn, "pong")
	_, _ = io.Copy(io.Discard, conn)
}

func (c *counting) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

func pingPong(t *testing.T, w way, at string) error {
	t.Helper()
	c, err := w.dial(t.Context(), at)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(netlab.Patience))
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "pong" {
		return fmt.Errorf("%q: %w", b, err)
	}
	return nil
}

// pingEarly makes connections until one carries early data, the first one never does, and returns how many.
func pingEarly(t *testing.T, client *daemon, w way, at string) (n int) {
	t.Helper()
	for n < 20 {
		watch := netlab.StartStopwatch()
		if err := pingPong(t, w, at); err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		n++
		wall, own := watch.Took()
		if client.newest(t, to(at)).EarlyData {
			return n
		}
		if n > 1 && wall-own < inTime {
			t.Errorf("%s: connection %d had no early data", w.name, n)
		}
	}
	t.Fatalf("%s: %d connections, none with early data", w.name, n)
	return n
}

// TestEarlyDataReplay captures a SYN with early data and sends it again from the client's own address, with raw sockets: to
// the same server, and to one that was started again. Nothing is delivered.
func TestEarlyDataReplay(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	service := new(counting)
	lab.Server.Serve(t, "127.0.0.1:9001", service.serve)
	server := startRun(t, lab.Server, earlyServe)
	client := startRun(t, lab.Client, clientConfig+earlyRule)
	at := families()[0].at(2001)
	capture := lab.Capture(t, "c0", 0, "tcp port 2001")
	pings := pingEarly(t, client, ways(lab.Client)[0], at)
	file := capture.Stop()
	segs, err := decode.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copies := 0 // a SYN that is not answered within a second is sent again
	for _, s := range segs {
		if u, err := decode.ParseUpgraded(s.Payload); s.Flags&(decode.SYN|decode.ACK) == decode.SYN && err == nil && u != nil && len(u.Payload) > 0 {
			copies++
		}
	}
	got := (tshark.Options{KeyLog: client.keylog}).Values(t, file, "innertun.early")
	if len(got) == 0 || len(got) != copies || slices.ContainsFunc(got, func(v string) bool { return v != hex.EncodeToString([]byte("ping")) }) {
		t.Errorf("tshark shows the early data as %q, it was sent %d times", got, copies)
	}
	flows, _ := keptFlows(segs)
	first := flows[len(flows)-1].Segments[0]
	if u, err := decode.ParseUpgraded(first.Payload); err != nil || len(u.Payload) == 0 {
		t.Fatalf("no early data in the SYN: %v", err)
	}
	if got := service.take(); len(got) != pings {
		t.Fatalf("%q", got)
	}
	p := newRawPeer(t, lab.Client)
	for i, where := range []string{"the same server", "a server started again"} {
		if i == 1 {
			if code, err := server.Stop(); err != nil || code != 0 {
				t.Fatal(code, err)
			}
			server = startRun(t, lab.Server, earlyServe)
		}
		c := &rawConn{peer: p, port: uint16(20000 + i), to: 2001, seq: first.Seq}
		if err := c.send(syn, first.Options, first.Payload); err != nil {
			t.Fatal(err)
		}
		answer, err := c.wait(netlab.Patience, func(s rawSegment) bool { return s.flags&syn != 0 })
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		if u, err := decode.ParseUpgraded(answer.payload); err != nil || u == nil {
			t.Errorf("%s: not answered as upgraded: %v", where, err)
		}
		c.seq, c.ack = first.Seq+1+uint32(len(first.Payload)), answer.seq+1+uint32(len(answer.payload))
		_ = c.send(ack, nil, nil)
		time.Sleep(300 * time.Millisecond)
		if got := service.take(); len(got) != 0 {
			t.Errorf("%s: the service got %q", where, got)
		}
		_ = c.send(rst, nil, nil)
	}
	// The client goes on: to the server that has forgotten, too.
	for range 3 {
		if err := pingPong(t, ways(lab.Client)[1], at); err != nil {
			t.Fatal(err)
		}
	}
	if got := service.take(); len(got) != 3 {
		t.Errorf("%q", got)
	}
}

// TestEarlyDataRefused has the far end refuse what an application was told to have: it is passed on as an abort, through TUN
// and SOCKS alike, and one that speaks late is served without early data.
func TestEarlyDataRefused(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	service := new(counting)
	lab.Server.Serve(t, "127.0.0.1:9001", service.serve)
	server := startRun(t, lab.Server, earlyServe)
	client := startRun(t, lab.Client, clientConfig+earlyRule)
	at := families()[0].at(2001)
	for _, w := range ways(lab.Client) {
		for range 2 {
			if err := pingPong(t, w, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range ways(lab.Client) {
		last := client.lastID(t)
		c, err := w.dial(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is opened before the application has spoken, or its time for that is over.
		netlab.WaitFor(t, netlab.Patience, "a connection without what the application says", func() error {
			if id := client.lastID(t); id == last {
				return fmt.Errorf("the last one is still number %d", id)
			}
			return nil
		})
		_ = c.SetDeadline(time.Now().Add(netlab.Patience))
		if _, err := io.WriteString(c, "late"); err != nil {
			t.Error(err)
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		c.Close()
		if r := client.newest(t, to(at)); r.EarlyData || !r.Resumed {
			t.Errorf("%s: %+v", w.name, r)
		}
	}
	server.stop(t)
	for _, w := range ways(lab.Client) {
		c, err := w.dial(t.Context(), at)
		if err != nil {
			t.Logf("%s: refused before: %v", w.name, err)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(netlab.Patience))
		_, sent := io.WriteString(c, "ping") // the reset may come before it
		_, received := io.ReadFull(c, make([]byte, 1))
		if !errors.Is(sent, syscall.ECONNRESET) && !errors.Is(received, syscall.ECONNRESET) {
			t.Errorf("%s: %v, %v", w.name, sent, received)
		}
		c.Close()
		if r := client.ended(t, to(at)); r.State != "failed" || r.Error == "" {
			t.Errorf("%s: %+v", w.name, r)
		}
	}
}
