package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/netlab"
)

// Urgent octets, marked "!", among others.
const urgentText = "before ! after, and a last one! the end"

// sendUrgent sends urgentText, its marked octets as urgent data, and half-closes.
func sendUrgent(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for _, octet := range []byte(urgentText) {
		if octet != '!' {
			_, err = c.Write([]byte{octet})
		} else {
			var sent error
			err = raw.Write(func(fd uintptr) bool {
				_, sent = unix.SendmsgN(int(fd), []byte{octet}, nil, nil, unix.MSG_OOB)
				return !errors.Is(sent, syscall.EAGAIN)
			})
			err = errors.Join(err, sent)
			time.Sleep(20 * time.Millisecond) // a segment of its own
		}
		if err != nil {
			return err
		}
	}
	return c.CloseWrite()
}

func readText(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(netlab.Patience)); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != urgentText {
		err = fmt.Errorf("%w text %q", errUnexpected, got)
	}
	return err
}

// Urgent data of programs arrives in its place in the stream, whether the connection is encrypted or not, from either end.
func TestUrgentData(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	results := make(chan error, 1)
	origin := func(c *net.TCPConn) {
		err := readText(c)
		results <- errors.Join(err, sendUrgent(c))
	}
	lab.Server.Serve(t, ":2001", origin)          // reached in plain
	lab.Server.Serve(t, "127.0.0.1:2002", origin) // behind serve
	startServe(t, lab.Server, ":2003", "127.0.0.1:2002")
	d := startRun(t, lab.Client, clientConfig)
	for _, w := range ways(lab.Client) {
		for _, port := range []uint16{2001, 2003} {
			for _, f := range families() {
				t.Run(fmt.Sprintf("%s, %d, %s", w.name, port, f.name), func(t *testing.T) {
					c, err := w.dial(t.Context(), f.at(port))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if err := sendUrgent(c.(*net.TCPConn)); err != nil {
						t.Error(err)
					}
					if err := readText(c); err != nil {
						t.Errorf("at the client: %v", err)
					}
					if err := receive(t, results); err != nil {
						t.Errorf("at the server: %v", err)
					}
				})
			}
		}
	}
	s, err := d.status()
	if err != nil || s.Totals.Encrypted != 4 || s.Totals.Plain["peer-no-eno"] != 4 {
		t.Errorf("%+v, %v", s.Totals, err)
	}
}
