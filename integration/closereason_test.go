package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// opened is a connection of an application on a host.
func opened(t testing.TB, h *netlab.Host, address string) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(netlab.Patience))
	return c.(*net.TCPConn)
}

// turnedAway is an application whose connection is reset, which may be as soon as it is open.
func turnedAway(t testing.TB, h *netlab.Host, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", address)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(netlab.Patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", address, err)
	}
}

// lastID is the number of the newest connection; 0: there was none.
func (d *daemon) lastID(t testing.TB) (id uint64) {
	for _, r := range d.conns(t) {
		id = max(id, r.ID)
	}
	return id
}

// failedFor waits for a connection behind that number that has failed with a text in its error.
func (d *daemon) failedFor(t testing.TB, after uint64, of func(record) bool, text string) (found record) {
	t.Helper()
	netlab.WaitFor(t, netlab.Patience, "a connection that failed for: "+text, func() error {
		all := d.conns(t)
		for _, r := range all {
			if r.ID > after && of(r) && r.State == "failed" && strings.Contains(r.Error, text) {
				found = r
				return nil
			}
		}
		return fmt.Errorf("%+v", all)
	})
	return found
}

// TestCloseReasons has connections aborted at either end, and the other end's daemon tell why: the first one opened by an
// ordinary SYN with the mark, the others by upgraded ones.
func TestCloseReasons(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:7007", func(c *net.TCPConn) {
		defer c.Close()
		io.Copy(c, c)
	})
	clientKey, _ := keyGen(t, lab.Client, "client.key")
	serverKey, _ := keyGen(t, lab.Server, "server.key")
	_, friend := keyGen(t, lab.Server, "friend.key")
	server := startRun(t, lab.Server, identityConfig(serverKey,
		"[[peer]]\nname = \"friend\"\nkey = \""+friend+"\"\n",
		"[[serve]]\nlisten = \":7007\"\nforward = \"127.0.0.1:7007\"\n",
		"[[serve]]\nlisten = \":7008\"\nforward = \"127.0.0.1:7008\"\n", // nobody is there
		"[[serve]]\nlisten = \":7009\"\nforward = \"127.0.0.1:7007\"\npeers = [\"friend\"]\n"))
	client := startRun(t, lab.Client, identityConfig(clientKey, "[tun]\nname = \"inner0\"\n"))

	for _, upgraded := range []bool{false, true} {
		for _, f := range families() {
			c0, s0 := client.lastID(t), server.lastID(t)
			turnedAway(t, lab.Client, f.at(7008))
			r := client.failedFor(t, c0, to(f.at(7008)), "refused: connection refused")
			if !r.InnerSpace || !r.Encrypted {
				t.Errorf("%+v", r)
			}

			turnedAway(t, lab.Client, f.at(7009))
			client.failedFor(t, c0, to(f.at(7009)), "identity")

			c := opened(t, lab.Client, f.at(7007))
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			r = client.newest(t, to(f.at(7007)))
			if r.PeerMTU != 1500 || r.OptionsRecv == 0 || r.OptionsSent == 0 || r.OptionsUnknown+r.OptionsMissed != 0 {
				t.Errorf("client, upgraded %v: %+v", upgraded, r)
			}
			c.SetLinger(0)
			c.Close()
			r = server.failedFor(t, s0, func(r record) bool { return r.Role == "server" && r.Local == f.at(7007) }, "aborted")
			if r.PeerMTU != 1500 || r.OptionsRecv == 0 || r.Peer == "" {
				t.Errorf("server, upgraded %v: %+v", upgraded, r)
			}
		}
	}
	c := opened(t, lab.Client, families()[0].at(7007))
	c.Write([]byte("hello"))
	if _, err := c.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	watch := netlab.StartStopwatch()
	server.stop(t)
	if wall, own := watch.Took(); own > 5*time.Second {
		t.Errorf("the daemon took %v to stop, %v of it by itself", wall, own)
	}
	client.failedFor(t, 0, to(families()[0].at(7007)), "shutdown")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the application reads %d, %v", n, err)
	}
}
