package integration

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// A kernel's client uses its port again while the served end of its last connection is in TIME-WAIT: at once, also when it
// has sent faster than its initial sequence numbers grow, so that the new one is lower than the last.
func TestServedPortReuse(t *testing.T) {
	const upload = 64 << 20
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:2001", func(c *net.TCPConn) { // and closes first
		_, _ = io.CopyN(io.Discard, c, upload)
		_, _ = c.Write([]byte("bye"))
	})
	startServe(t, lab.Server, ":2002", "127.0.0.1:2001")
	for n, f := range families() {
		for i := range 4 {
			t.Run(fmt.Sprintf("%s, connection %d", f.name, i), func(t *testing.T) {
				watch := netlab.StartStopwatch()
				c, err := dialFrom(t.Context(), lab.Client, 26_000+n, f.at(2002))
				opened, own := watch.Took()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				start := time.Now()
				if _, err := c.Write(make([]byte, upload)); err != nil {
					t.Error(err)
				}
				if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
					t.Errorf("%q, %v", got, err)
				}
				took := time.Since(start)
				t.Logf("open after %v, then %v: %.0f octets in 64 ns", opened, took, upload/(float64(took)/64))
				if own > time.Second {
					t.Errorf("open after %v, %v of it by itself", opened, own)
				}
			})
		}
	}
}
