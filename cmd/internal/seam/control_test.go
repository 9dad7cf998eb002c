package seam

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/identity"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// ends are the two ends of one connection with Inner Space.
type ends struct {
	dialer         *tcpinc.Dialer
	listener       *tcpinc.Listener
	client, server *tcpinc.Conn
}

// connected opens a connection: by an upgraded SYN, or by an ordinary one with the mark.
func connected(t *testing.T, upgraded bool, client, server tcpinc.Config, elements ...lab.Element) ends {
	t.Helper()
	c, s := pair(t, elements...)
	client.InnerSpace, server.InnerSpace = tcpinc.InnerSpaceAuto, tcpinc.InnerSpaceAuto
	l, err := listener(s, service, tcpinc.ListenConfig{Config: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	x := ends{dialer: &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: client}, listener: l}
	x.open(t)
	if upgraded { // the first one has learnt that it can be
		x.client.Abort()
		x.server.Abort()
		x.open(t)
	}
	t.Cleanup(func() { x.client.Abort(); x.server.Abort() })
	return x
}

func (x *ends) open(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	accepted := make(chan *tcpinc.Conn, 1)
	go func() {
		if c, err := x.listener.AcceptConn(); err == nil {
			accepted <- c
		}
	}()
	var err error
	if x.client, err = x.dialer.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require}); err != nil {
		t.Fatalf("Dial: %v", err)
	}
	select {
	case x.server = <-accepted:
	case <-ctx.Done():
		t.Fatal("not accepted")
	}
	if !x.client.ConnectionState().InnerSpace || !x.server.ConnectionState().InnerSpace {
		t.Fatal("no Inner Space")
	}
}

// ways opens connections in both ways.
func bothOpenings(t *testing.T, f func(t *testing.T, upgraded bool)) {
	t.Run("mark", func(t *testing.T) { f(t, false) })
	t.Run("upgraded", func(t *testing.T) { f(t, true) })
}

// The far end learns why a connection was aborted, behind all that was sent before, whatever a RST has to go through.
func TestCloseReason(t *testing.T) {
	for _, mode := range []tcpinc.ResetMode{tcpinc.VerifyResets, tcpinc.AcceptResets, tcpinc.AuthenticateResets} {
		t.Run(mode.String(), func(t *testing.T) {
			bothOpenings(t, func(t *testing.T, upgraded bool) {
				cfg := tcpinc.Config{Clock: clock, RST: mode}
				x := connected(t, upgraded, cfg, cfg, lab.Delay(5*time.Millisecond))
				reason := innerspace.CloseReason{Code: innerspace.CloseRefused, Text: "no such service"}
				start := clock.Now()
				aborted := make(chan time.Duration, 1)
				go func() {
					x.server.Write([]byte("the last words"))
					x.server.AbortWith(reason)
					aborted <- since(start)
				}()
				got, err := io.ReadAll(x.client)
				var closed *tcpinc.CloseError
				if string(got) != "the last words" || !errors.As(err, &closed) || closed.Reason != reason || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q, %v", got, err)
				}
				if took := since(start); took > 500*time.Millisecond {
					t.Errorf("after %v", took)
				}
				if took := <-aborted; took > 500*time.Millisecond { // the peer's RST ends its wait
					t.Errorf("the abort took %v", took)
				}
				if _, err := x.client.Write([]byte("x")); !errors.As(err, &closed) {
					t.Errorf("Write: %v", err)
				}
				if _, err := x.client.Read(make([]byte, 1)); !errors.As(err, &closed) {
					t.Errorf("Read: %v", err)
				}
			})
		})
	}
}

// An abort waits for nobody for long: not for one who does not read, nor for room, nor for a Write under way.
func TestCloseReasonBounded(t *testing.T) {
	x := connected(t, true, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock}, lab.Delay(time.Millisecond))
	written := make(chan error, 1)
	go func() {
		b := make([]byte, 1<<20)
		for {
			if _, err := x.server.Write(b); err != nil {
				written <- err
				return
			}
		}
	}()
	sleep(300 * time.Millisecond) // the client does not read, and all is full
	start := clock.Now()
	x.server.AbortWith(innerspace.CloseReason{Code: innerspace.CloseShutdown})
	if took := since(start); took > 2*time.Second {
		t.Errorf("the abort took %v", took)
	}
	select {
	case <-written:
	case <-after(5 * time.Second):
		t.Error("the Write goes on")
	}
	if _, err := io.Copy(io.Discard, x.client); err == nil || err == io.EOF {
		t.Errorf("the client's end: %v", err)
	}
}

// A host asks for new keys of its peer; nobody has to write or read anything else for that.
func TestRekeyOnRequest(t *testing.T) {
	bothOpenings(t, func(t *testing.T, upgraded bool) {
		x := connected(t, upgraded, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock})
		for _, c := range []*tcpinc.Conn{x.client, x.server} {
			go io.Copy(io.Discard, c)
		}
		for want := uint32(1); want <= 3; want++ {
			for range 3 { // repeating it has no effect
				if err := x.client.RequestRekey(); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 5*time.Second, "both have new keys", func() bool {
				c, s := x.client.ConnectionState(), x.server.ConnectionState()
				return c.Received.Generation >= want && c.Sent.Generation >= want && s.Received.Generation >= want
			})
		}
		sleep(50 * time.Millisecond)
		if s := x.client.ConnectionState(); s.Sent.Generation > 9 || s.Received.Generation != s.Sent.Generation {
			t.Errorf("%+v", s)
		}
	})
}

// A peer whose keys serve for longer than this host's limits is asked for new ones, and not overtaken.
func TestRekeyAtLimitsIsAskedFor(t *testing.T) {
	x := connected(t, true, tcpinc.Config{Clock: clock, KeyLimits: tcpcrypt.KeyLimits{Frames: 16}}, tcpinc.Config{Clock: clock})
	go io.Copy(io.Discard, x.server)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 100 {
			x.server.Write(make([]byte, 100))
			sleep(time.Millisecond)
		}
		x.server.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, x.client); n != 10_000 || err != nil {
		t.Fatal(n, err)
	}
	<-sent
	c := x.client.ConnectionState()
	if c.Received.Generation < 1 || c.Received.Generation > 6 || c.Options.OptionsSent < 2 {
		t.Errorf("generation %d after %d frames, %+v", c.Received.Generation, c.Received.Frames, c.Options)
	}
}

// Each learns what the other's link takes.
func TestMTUIsTold(t *testing.T) {
	bothOpenings(t, func(t *testing.T, upgraded bool) {
		x := connected(t, upgraded, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock})
		for _, way := range [][2]*tcpinc.Conn{{x.client, x.server}, {x.server, x.client}} {
			way[0].Write([]byte("x"))
			way[1].Read(make([]byte, 1))
			if s := way[1].ConnectionState(); s.PeerMTU != 1500 {
				t.Errorf("the %v end was told %d", s.Role, s.PeerMTU)
			}
		}
	})
}

// Options of the header come in their places among the data, those nobody knows too, and are counted.
func TestOuterOptions(t *testing.T) {
	bothOpenings(t, func(t *testing.T, upgraded bool) {
		x := connected(t, upgraded, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock})
		x.client.Write([]byte("before"))
		if err := x.client.SendOuterOption(28, []byte{0x80, 0x05}); err != nil { // User Timeout, RFC 5482
			t.Fatal(err)
		}
		x.client.SendOption(innerspace.Option{77, 4, 1, 2})
		x.client.SendOuterOption(253, []byte(strings.Repeat("long", 62)))
		x.client.Write([]byte("after"))
		x.client.CloseWrite()
		if got, err := io.ReadAll(x.server); string(got) != "beforeafter" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		var kinds []byte
		for r := range x.server.Options() {
			o, outer := r.Outer()
			if !outer {
				o = r.Option
			}
			kinds = append(kinds, o.Kind())
			if r.Position != 6 || outer == (o.Kind() == 77) {
				t.Errorf("%v at %d, outer %v", o, r.Position, outer)
			}
		}
		if string(kinds) != string([]byte{28, 77, 253}) {
			t.Errorf("kinds %v", kinds)
		}
		c, s := x.client.ConnectionState().Options, x.server.ConnectionState().Options
		if c.OptionsSent != s.OptionsReceived || c.OptionsSent < 3 || s.Unknown != 1 || s.Missed != 0 {
			t.Errorf("client %+v, server %+v", c, s)
		}
		for _, bad := range []error{x.client.SendOuterOption(1, nil), x.client.SendOuterOption(99, make([]byte, 250))} {
			if !errors.Is(bad, innerspace.ErrEncode) {
				t.Errorf("%v", bad)
			}
		}
	})
}

// Proofs over Inner Space, asked for at both ends, add no round trip: with keys in the SYNs the first reply takes two.
func TestRoundTripsWithProofsInside(t *testing.T) {
	for name, v := range map[string]struct{ client, server tcpinc.Authenticator }{
		"both": {pinned(t, "web", 2), pinned(t, "laptop", 1)}, "client": {client: pinned(t, "web", 2)},
		"server": {server: pinned(t, "laptop", 1)}, "nobody": {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVirtualWorld(t, 100*time.Millisecond)
			server, client := w.config(t), w.config(t)
			server.Identity, client.Identity = key(2), key(1)
			server.InnerSpace, client.InnerSpace = tcpinc.InnerSpaceAuto, tcpinc.InnerSpaceAuto
			server.Sessions, client.Sessions = nil, nil
			serve(t, w.server, tcpinc.ListenConfig{Config: server, Auth: v.server})
			d := &tcpinc.Dialer{Connect: Connect(w.client), Config: client, Paths: new(tcpinc.PathMemory)}
			for i, want := range []float64{3, 2, 2} {
				trips, state, err := w.roundTrips(t, d, tcpinc.DialOptions{Auth: v.client})
				if err != nil || trips != want || state.PeerIdentity == nil || !state.InnerSpace {
					t.Errorf("%d: %v round trips, want %v; %+v, %v", i, trips, want, state, err)
				}
			}
		})
	}
}

// meddlingWithProofs changes, or takes away, the proof in a SYN-ACK-U.
type meddlingWithProofs struct{ remove bool }

func (m meddlingWithProofs) Packet(p lab.Packet, at lab.Place) {
	s, ok := lab.ParseSegment(p.Data)
	if ok && s.Flags()&lab.SYN != 0 && s.Flags()&lab.ACK != 0 {
		if u, o, _ := innerspace.ParseSYN(s.Payload()); o == innerspace.Upgraded {
			it := innerspace.NewIterator(u.Suffix)
			for o, ok := it.Next(); ok; o, ok = it.Next() {
				if id, body, ok := o.ExID(); ok && id == innerspace.ExIDProof {
					if m.remove {
						o[3] ^= 0x80 // another ExID
					} else {
						body[len(body)-1] ^= 1
					}
				}
			}
			checksums(p.Data)
		}
	}
	at.Send(p)
}

// Whoever alters a proof in the SYN-ACK ends the connection; whoever takes it away leaves the peer without one.
func TestProofInSYNACKMeddledWith(t *testing.T) {
	for _, remove := range []bool{false, true} {
		for _, auth := range []tcpinc.Authenticator{nil, pinned(t, "web", 2)} {
			c, s := pair(t, meddlingWithProofs{remove})
			server := tcpinc.Config{Clock: clock, Identity: key(2), InnerSpace: tcpinc.InnerSpaceAuto}
			serve(t, s, tcpinc.ListenConfig{Config: server})
			d := &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
				Identity: key(1), InnerSpace: tcpinc.InnerSpaceAuto,
			}}
			dial := func() (*tcpinc.Conn, error) {
				ctx, cancel := context.WithTimeout(t.Context(), guard)
				defer cancel()
				return d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, Auth: auth})
			}
			first, err := dial() // ordinary: the proof is in the stream
			if err != nil {
				t.Fatal(err)
			}
			first.Close()
			second, err := dial()
			switch {
			case !remove && !errors.Is(err, tcpinc.ErrHello):
				t.Errorf("altered: %v", err)
			case remove && auth != nil && !errors.Is(err, tcpinc.ErrPeerIdentity):
				t.Errorf("taken away from one who asks: %v", err)
			case remove && auth == nil && (err != nil || second.ConnectionState().PeerIdentity != nil):
				t.Errorf("taken away from one who does not ask: %v", err)
			}
			if err == nil {
				second.Abort()
			}
		}
	}
}

// The wrong peer is refused at both openings, by either end, and is told why.
func TestIdentityRefusedInside(t *testing.T) {
	bothOpenings(t, func(t *testing.T, upgraded bool) {
		c, s := pair(t)
		server := tcpinc.Config{Clock: clock, Identity: key(2), InnerSpace: tcpinc.InnerSpaceAuto}
		allowed := identity.Pinned{}
		for k, name := range pinned(t, "laptop", 1) {
			allowed[k] = name
		}
		serve(t, s, tcpinc.ListenConfig{Config: server, Auth: allowed})
		paths := new(tcpinc.PathMemory)
		dial := func(own byte, auth tcpinc.Authenticator) (*tcpinc.Conn, error) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			d := &tcpinc.Dialer{Connect: Connect(c), Paths: paths, Config: tcpinc.Config{Clock: clock, Identity: key(own), InnerSpace: tcpinc.InnerSpaceAuto}}
			return d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Auth: auth})
		}
		if upgraded {
			good, err := dial(1, pinned(t, "web", 2))
			if err != nil {
				t.Fatal(err)
			}
			good.Close()
		}
		if _, err := dial(1, pinned(t, "web", 3)); !errors.Is(err, tcpinc.ErrPeerIdentity) {
			t.Errorf("the server is another: %v", err)
		}
		stranger, err := dial(9, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Abort()
		var closed *tcpinc.CloseError
		if _, err := stranger.Read(make([]byte, 1)); !errors.As(err, &closed) || closed.Reason.Code != innerspace.CloseIdentity {
			t.Errorf("the stranger reads: %v", err)
		}
	})
}

// Close loses nothing of what was written, though the peer's proof was never read.
func TestCloseWithProofUnread(t *testing.T) {
	bothOpenings(t, func(t *testing.T, upgraded bool) {
		x := connected(t, upgraded, tcpinc.Config{Clock: clock, Identity: key(1)}, tcpinc.Config{Clock: clock, Identity: key(2)}, lab.Delay(2*time.Millisecond))
		sent := make([]byte, 300_000)
		go func() {
			x.client.Write(sent)
			x.client.Close()
		}()
		if n, err := io.Copy(io.Discard, x.server); n != int64(len(sent)) || err != nil {
			t.Errorf("%d octets, %v", n, err)
		}
		if x.server.ConnectionState().PeerIdentity == nil {
			t.Error("no proof of the client")
		}
		x.server.Close()
	})
}

// Without encryption, as there is no TEP in common, units go over plain TCP: reasons and hints are told, keys and identities
// are not.
func TestControlWithoutEncryption(t *testing.T) {
	c, s := pair(t)
	l, err := listener(s, service, tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceOn, TEPs: []eno.TEP{tcpcrypt.Curve25519}, Identity: key(2),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reason := innerspace.CloseReason{Code: innerspace.CloseTimeout}
	go func() {
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		c.Write([]byte("words"))
		c.AbortWith(reason)
	}()
	d := &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceOn, TEPs: []eno.TEP{tcpcrypt.P256}, Identity: key(1),
	}}
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	conn, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Abort()
	if err := conn.RequestRekey(); !errors.Is(err, tcpinc.ErrNoSession) {
		t.Errorf("RequestRekey: %v", err)
	}
	got, err := io.ReadAll(conn)
	var closed *tcpinc.CloseError
	if string(got) != "words" || !errors.As(err, &closed) || closed.Reason != reason {
		t.Errorf("%q, %v", got, err)
	}
	if s := conn.ConnectionState(); s.Encrypted || !s.InnerSpace || s.PeerMTU != 1500 || s.PeerIdentity != nil {
		t.Errorf("%+v", s)
	}
}
