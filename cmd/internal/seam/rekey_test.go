package seam

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// hole lets nothing through once it is open.
type hole struct{ open atomic.Bool }

func (h *hole) Packet(p lab.Packet, at lab.Place) {
	if !h.open.Load() {
		at.Send(p)
	}
}

// Keys change at both ends at once, in the middle of bulk transfers both ways over a path that loses segments: what is
// sent again is the same octets, and all arrives.
func TestRekeyInBulkTransfers(t *testing.T) {
	loss := lab.NewLoss(0.003, 5)
	client, server := pair(t, lab.Delay(time.Millisecond), loss)
	cfg := tcpinc.Config{Clock: clock, KeyLimits: tcpcrypt.KeyLimits{Octets: 300_000}}
	serve(t, server, tcpinc.ListenConfig{Config: cfg})
	d := tcpinc.Dialer{Connect: Connect(client), Config: cfg}
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.ReadFrom(bytes.NewReader(sent)); err != nil {
			t.Errorf("sending: %v", err)
		}
		c.CloseWrite()
	})
	var got bytes.Buffer
	if _, err := c.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d octets of %d came back, %v", got.Len(), len(sent), err)
	}
	wg.Wait()
	if s := c.ConnectionState(); s.Sent.Generation < 20 || s.Received.Generation < 20 || loss.Dropped() == 0 {
		t.Errorf("sent %+v, received %+v, %d segments lost", s.Sent, s.Received, loss.Dropped())
	}
}

// A peer behind a path that has gone dead is asked, by a rekey, and given up: an error of its own, not the end of the
// stream. Until then an idle connection stays.
func TestSilentPeer(t *testing.T) {
	gone := new(hole)
	client, server := pair(t, gone)
	serve(t, server, tcpinc.ListenConfig{})
	live := tcpcrypt.Liveness{Idle: 200 * time.Millisecond, Answer: time.Second}
	d := tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Clock: clock, Liveness: live}}
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("an idle connection ended: %v", err)
	case <-after(3 * time.Second):
	}
	if s := c.ConnectionState(); s.Received.Generation < 5 {
		t.Errorf("%+v", s)
	}
	gone.open.Store(true)
	select {
	case err := <-ended:
		if !errors.Is(err, tcpcrypt.ErrPeerSilent) || errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	case <-after(10 * time.Second):
		t.Error("not found out in 10 s")
	}
}
