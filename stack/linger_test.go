package stack_test

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"innertun/stack/stacktest"
)

// A server that has read all there is, by what the protocol above says, may close before the client's FIN has come. If
// that FIN is lost, what the server wrote must arrive all the same.
func TestCloseBeforeThePeersFIN(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 5*time.Millisecond)
		w.path.SetTap(dropFirst(1, func(d stacktest.Direction, p stacktest.Packet) bool {
			return d == stacktest.AtoB && p.Flags&stacktest.FIN != 0
		}))
		c, s := w.connect(t, w.listen(t, at, nil), at, nil)
		question, answer := randomBytes(1000), randomBytes(500_000)
		carry(t, c, s, question)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		go func() {
			s.Write(answer)
			s.Close()
		}()
		got, err := io.ReadAll(c)
		if err != nil || len(got) != len(answer) {
			t.Fatalf("%d octets of %d, then %v", len(got), len(answer), err)
		}
	})
}

// Data for a connection that was closed is answered with RST, as ever.
func TestDataAfterClose(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		c, s := w.connect(t, w.listen(t, at, nil), at, nil)
		s.Close()
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("%d octets, %v", n, err)
		}
		for end := time.Now().Add(testTimeout); time.Now().Before(end); { // the first meets the RST
			if _, err := c.Write([]byte("nobody reads this")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error("writes to a closed connection, and no error")
	})
}
