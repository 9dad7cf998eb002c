package tcpinc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// world is a network with an echo server, and a Dialer.
type world struct {
	*network
	host *host
	d    *tcpinc.Dialer
	log  *bytes.Buffer

	server *tcpcrypt.SessionCache
}

func newWorld(t *testing.T, client, server tcpinc.Config, policy tcpinc.Policy) *world {
	n := newNetwork(server)
	w := &world{network: n, log: new(bytes.Buffer)}
	w.host = serve(n.listen(t, tcpinc.ListenConfig{Config: server, Policy: policy}), "")
	client.Logger = slog.New(slog.NewTextHandler(w.log, nil))
	w.d = &tcpinc.Dialer{Connect: n.connect, Config: client, Paths: &tcpinc.PathMemory{}}
	return w
}

func (w *world) dial(p tcpinc.Policy) (*tcpinc.Conn, error) {
	return w.d.Dial(context.Background(), netip.Addr{}, server, tcpinc.DialOptions{Policy: p})
}

// echo checks that the connection carries data both ways and ends in order.
func echo(t *testing.T, c *tcpinc.Conn) {
	t.Helper()
	const text = "what was sent comes back"
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func isPlain(t *testing.T, c *tcpinc.Conn, err error, why eno.Reason) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := c.ConnectionState()
	if s.Encrypted || s.FallbackReason != why || s.SessionID != nil || s.TEP != 0 {
		t.Fatalf("state %+v, want plain for %v", s, why)
	}
	if _, err := c.SessionID(); !errors.Is(err, tcpinc.ErrNoSession) {
		t.Fatalf("session ID: %v", err)
	}
	echo(t, c)
}

func isEncrypted(t *testing.T, c *tcpinc.Conn, err error) tcpinc.ConnectionState {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := c.ConnectionState()
	id, err := c.SessionID()
	if !s.Encrypted || s.FallbackReason != eno.NoReason || err != nil || !bytes.Equal(id, s.SessionID) || len(id) != 33 {
		t.Fatalf("state %+v, session ID %v", s, err)
	}
	echo(t, c)
	return s
}

func isRequired(t *testing.T, err error, why eno.Reason) {
	t.Helper()
	var required *tcpinc.RequiredError
	if !errors.Is(err, tcpinc.ErrEncryptionRequired) || !errors.As(err, &required) || required.Reason != why {
		t.Fatalf("error %v, want encryption required, %v", err, why)
	}
}

func plainSYN(s segment) bool { return s.kind == tcpinc.SYN && len(s.options) == 0 }
func enoSYN(s segment) bool   { return s.kind == tcpinc.SYN && len(s.options) > 0 }

// Paths that do something with the ENO option.
func stripSYNs(s *segment) bool {
	if s.kind != tcpinc.NonSYN {
		s.options = nil
	}
	return true
}
func stripAll(s *segment) bool { s.options = nil; return true }
func stripNonSYN(s *segment) bool {
	if s.kind == tcpinc.NonSYN {
		s.options = nil
	}
	return true
}
func dropENO(s *segment) bool { return !enoSYN(*s) }

func TestDialEncrypted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []tcpinc.KeyLogEntry
		w := newWorld(t, tcpinc.Config{AppAware: true, KeyLog: func(e tcpinc.KeyLogEntry) { keys = append(keys, e) }},
			tcpinc.Config{TEPs: []eno.TEP{tcpcrypt.P256, tcpcrypt.Curve25519}, Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305}}, tcpinc.Opportunistic)
		defer w.host.close()
		for _, p := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
			c, err := w.dial(p)
			s := isEncrypted(t, c, err)
			if s.TEP != tcpcrypt.P256 || s.Cipher != tcpcrypt.ChaCha20Poly1305 || s.Role != eno.RoleA || s.PeerAppAware || s.SYNsSent != 1 {
				t.Errorf("state %+v", s)
			}
			if want := []byte{69, 7, 0x02, 0x22, 0x21, 0x24, 0x23, 69, 4, 0x01, 0x21}; !bytes.Equal(s.Transcript, want) {
				t.Errorf("transcript %x, want %x", s.Transcript, want)
			}
			if s.HandshakeTime != w.rtt || s.Sent.Data == 0 && s.Received.Frames == 0 && s.Sent.Octets == 0 {
				t.Errorf("handshake time %v, sent %+v", s.HandshakeTime, s.Sent)
			}
		}
		if len(keys) != 2 || keys[0].HostA.String() != "a" || keys[0].HostB.String() != "b" || len(keys[0].KAB) == 0 {
			t.Errorf("key log %+v", keys)
		}
		if w.d.Downgrades() != 0 || w.log.Len() != 0 {
			t.Errorf("%d downgrades, log %s", w.d.Downgrades(), w.log)
		}
	})
}

// What a peer or a path can do to the negotiation, and what becomes of the connection under each policy.
func TestDialFallsBack(t *testing.T) {
	for _, v := range []struct {
		name           string
		client, server tcpinc.Config
		path           func(*segment) bool
		legacy         bool
		why            eno.Reason
	}{
		{name: "legacy server", legacy: true, why: eno.PeerNoENO},
		{name: "stripped from SYNs", path: stripSYNs, why: eno.PeerNoENO},
		{name: "stripped from all", path: stripAll, why: eno.PeerNoENO},
		{name: "stripped from the SYN-ACK", path: func(s *segment) bool {
			if s.kind == tcpinc.SYNACK {
				s.options = nil
			}
			return true
		}, why: eno.PeerNoENO},
		{name: "no common TEP", client: tcpinc.Config{TEPs: []eno.TEP{tcpcrypt.Curve25519}}, server: tcpinc.Config{TEPs: []eno.TEP{tcpcrypt.P521}}, why: eno.PeerNoENO},
		{name: "echoed", legacy: true, path: func(s *segment) bool {
			if s.kind == tcpinc.SYNACK {
				s.options = []byte{69, 4, 0x21, 0x23}
			}
			return true
		}, why: eno.RoleConflict},
		{name: "ill-formed", path: func(s *segment) bool {
			if s.kind == tcpinc.SYNACK {
				s.options = []byte{69, 4, 0x01, 0x80}
			}
			return true
		}, why: eno.Malformed},
		{name: "not app-aware", client: tcpinc.Config{MandatoryAppAware: true}, why: eno.NotAppAware},
		{name: "b = 1 against a passive opener", client: tcpinc.Config{B: true}, why: eno.PeerNoENO},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, v.client, v.server, tcpinc.Opportunistic)
				defer w.host.close()
				if v.path != nil {
					w.path = v.path
				}
				if v.legacy {
					w.passive = nil
				}
				c, err := w.dial(tcpinc.Opportunistic)
				isPlain(t, c, err, v.why)
				if w.dials() != 1 {
					t.Errorf("%d dials", w.dials())
				}
				synctest.Wait()
				before := w.host.octets()
				_, err = w.dial(tcpinc.Require)
				isRequired(t, err, v.why)
				synctest.Wait()
				if got := w.host.octets(); got != before {
					t.Errorf("%d octets reached the server under require", got-before)
				}
				if n := w.count(plainSYN); n != 0 {
					t.Errorf("%d SYNs without ENO", n)
				}
			})
		})
	}
}

func TestDialPlainByChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		c, err := w.dial(tcpinc.Opportunistic)
		isEncrypted(t, c, err)
		for reason, want := range map[eno.Reason]eno.Reason{eno.NoReason: eno.PolicyOff, eno.SkipPort: eno.SkipPort, eno.Local: eno.Local} {
			c, err := w.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Off, Reason: reason})
			isPlain(t, c, err, want)
		}
		if w.count(enoSYN) != 1 || w.d.Downgrades() != 0 {
			t.Errorf("%d SYNs with ENO, %d downgrades", w.count(enoSYN), w.d.Downgrades())
		}
		for _, p := range []tcpinc.Policy{tcpinc.Ratchet + 1, 255} {
			if c, err := w.dial(p); err == nil || c != nil || !strings.Contains(err.Error(), "policy(") {
				t.Errorf("%v: %v", p, err)
			}
		}
	})
}

// ENO stripped from non-SYN segments only: A must encrypt, B must not. B's guard resets the connection at Init1.
func TestDialStrippedFromNonSYN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		c, err := w.dial(tcpinc.Require)
		isEncrypted(t, c, err)
		w.path = stripNonSYN
		synctest.Wait()
		before := w.host.octets()

		start := time.Now()
		c, err = w.dial(tcpinc.Opportunistic)
		if took := time.Since(start); took > 3*w.rtt {
			t.Errorf("took %v", took)
		}
		isPlain(t, c, err, eno.Stripped)
		synctest.Wait()
		if got := w.host.octets() - before; got != len("what was sent comes back") {
			t.Errorf("the server's application got %d octets", got)
		}
		c, err = w.dial(tcpinc.Opportunistic)
		isPlain(t, c, err, eno.Remembered)
		if w.dials() != 4 {
			t.Errorf("%d dials", w.dials())
		}
		if w.d.Downgrades() != 2 || strings.Count(w.log.String(), "downgrade") != 1 {
			t.Errorf("%d downgrades, log %s", w.d.Downgrades(), w.log)
		}

		before = w.count(plainSYN)
		_, err = w.dial(tcpinc.Require) // what is remembered counts for nothing here
		isRequired(t, err, eno.Stripped)
		if !errors.Is(err, syscall.ECONNRESET) || w.count(plainSYN) != before || w.d.Downgrades() != 3 {
			t.Errorf("error %v, %d SYNs without ENO, %d downgrades", err, w.count(plainSYN)-before, w.d.Downgrades())
		}

		w.path = func(*segment) bool { return true } // the path heals, and is found out in time
		time.Sleep(tcpinc.DefaultPathTTL)
		c, err = w.dial(tcpinc.Opportunistic)
		isEncrypted(t, c, err)
	})
}

// What A may find instead of Init2 after a negotiation that seemed to succeed.
func TestDialNoInit2(t *testing.T) {
	for _, v := range []struct {
		name  string
		serve func(b tcpinc.Transport)
		takes time.Duration // until A gives up
		retry bool
		err   error
	}{
		{"silence", func(b tcpinc.Transport) { io.Copy(io.Discard, b) }, 3 * time.Second, true, tcpinc.ErrNoAnswer},
		{"reset", func(b tcpinc.Transport) { b.Abort() }, 0, true, syscall.ECONNRESET},
		{"end of stream", func(b tcpinc.Transport) { b.CloseWrite(); io.Copy(io.Discard, b) }, 0, true, tcpcrypt.ErrTruncated},
		{"a plain server that speaks first", func(b tcpinc.Transport) { io.WriteString(b, "220 mail.example ready\r\n"); io.Copy(io.Discard, b) }, 0, true, tcpcrypt.ErrBadMagic},
		{"a cipher that was not offered", func(b tcpinc.Transport) { alterInit2(b, 8, 0x7f) }, 0, false, tcpcrypt.ErrCipherNotOffered},
		{"a public key of zeros", func(b tcpinc.Transport) { alterInit2(b, -1, 0) }, 0, false, tcpcrypt.ErrBadPublicKey},
		{"a length that cannot be", func(b tcpinc.Transport) { alterInit2(b, 4, 0xff) }, 0, false, tcpcrypt.ErrInitTooLong},
	} {
		for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
			t.Run(v.name+", "+policy.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(tcpinc.Config{})
					d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{}}
					go func() { v.serve((<-n.accept).t) }()
					start := time.Now()
					c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: policy})
					took := time.Since(start)
					if v.retry && policy == tcpinc.Opportunistic {
						if err != nil || c.ConnectionState().FallbackReason != eno.Stripped || n.dials() != 2 || n.count(plainSYN) != 1 {
							t.Fatalf("%v, %d dials", err, n.dials())
						}
						if want := v.takes + 2*n.rtt; took != want {
							t.Errorf("took %v, want %v", took, want)
						}
						if d.Paths.Failed(server, time.Now()) != eno.Stripped {
							t.Error("not remembered")
						}
						c.Abort()
						return
					}
					if !errors.Is(err, v.err) || n.dials() != 1 || n.count(plainSYN) != 0 {
						t.Errorf("%v after %d dials, want %v", err, n.dials(), v.err)
					}
					if errors.Is(err, tcpinc.ErrEncryptionRequired) != v.retry {
						t.Errorf("error %v", err)
					}
				})
			})
		}
	}
}

// alterInit2 answers Init1 with an Init2 in which one octet is altered or, for at < 0, the key is zero. RFC 8548,
// Section 4.1.
func alterInit2(b tcpinc.Transport, at int, to byte) {
	var nonce [32]byte
	init2 := tcpcrypt.AppendInit2(nil, tcpcrypt.Init2{Cipher: tcpcrypt.AES128GCM, Nonce: nonce, Public: bytes.Repeat([]byte{9}, 32)})
	if at >= 0 {
		init2[at] = to
	} else {
		clear(init2[len(init2)-32:])
	}
	b.Write(init2)
	io.Copy(io.Discard, b)
}

// A slow path and a lost SYN give the peer more time for Init2.
func TestDialTimeForInit2(t *testing.T) {
	for _, v := range []struct {
		name string
		rtt  time.Duration
		lost int
		want time.Duration // from the first SYN until the connection is given up
	}{
		{"short RTT", 20 * time.Millisecond, 0, 3*time.Second + 20*time.Millisecond},
		{"long RTT", 1200 * time.Millisecond, 0, 4 * 1200 * time.Millisecond},
		{"SYN sent twice", 20 * time.Millisecond, 1, 1020*time.Millisecond + 3*1020*time.Millisecond + 3*time.Second},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tcpinc.Config{})
				n.rtt = v.rtt
				n.path = func(s *segment) bool { return s.kind != tcpinc.SYN || s.n >= v.lost }
				d := &tcpinc.Dialer{Connect: n.connect}
				start := time.Now()
				_, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
				if took := time.Since(start); !errors.Is(err, tcpinc.ErrNoAnswer) || took != v.want {
					t.Errorf("%v after %v, want %v", err, took, v.want)
				}
			})
		})
	}
}

// The handshake ends with the caller's context, and that is no reason for a dial without ENO.
func TestDialCancelledInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := d.Dial(ctx, netip.Addr{}, server, tcpinc.DialOptions{})
		if !errors.Is(err, context.DeadlineExceeded) || n.dials() != 1 || d.Paths.Len() != 0 {
			t.Errorf("%v after %d dials, %d paths remembered", err, n.dials(), d.Paths.Len())
		}
	})
}

// A stack that opens a connection without its SYN-ACK: nobody knows what the peer believes, so nothing is sent.
func TestDialNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := crypttest.Pipe(crypttest.Options{})
		d := &tcpinc.Dialer{Connect: func(_ context.Context, _, _ netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
			h.AppendOptions(nil, tcpinc.SYN, 20)
			return a, nil
		}}
		if _, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{}); !errors.Is(err, tcpinc.ErrNotConfirmed) {
			t.Errorf("%v", err)
		}
		isReset(t, "the peer", b)
	})
}

func TestDialRefusals(t *testing.T) {
	for _, want := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require, tcpinc.Off} {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tcpinc.Config{})
				n.refuse = func(int) error { return want }
				d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{}}
				start := time.Now()
				c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: policy})
				dials := 1
				if policy == tcpinc.Opportunistic && want != syscall.ENETUNREACH { // it may have been the option
					dials = 2
				}
				if c != nil || !errors.Is(err, want) || errors.Is(err, tcpinc.ErrEncryptionRequired) || n.dials() != dials ||
					time.Since(start) != time.Duration(dials)*n.rtt || d.Paths.Len() != 0 {
					t.Errorf("%v: %v after %d dials", policy, err, n.dials())
				}
			})
		}
	}
}

// 3 % loss each way: encryption is not lost to chance.
func TestDialUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		late := 0
		w.path = func(s *segment) bool {
			if s.kind == tcpinc.SYN && s.n == 2 {
				late++
			}
			// The same segments are lost in every run, in whatever order they leave.
			rng := rand.New(rand.NewPCG(uint64(s.dial), uint64(s.n)<<8|uint64(s.kind)))
			return s.kind == tcpinc.NonSYN || rng.Float64() >= 0.03
		}
		for i := range 2000 {
			c, err := w.dial(tcpinc.Opportunistic)
			if err != nil || !c.ConnectionState().Encrypted {
				t.Errorf("dial %d: %v, %+v", i, err, c)
				return
			}
			c.Abort()
		}
		if late < 5 {
			t.Errorf("only %d dials lost two SYNs: the test shows nothing", late)
		}
	})
}

// That no port is left for a second connection says nothing of the destination: the first goes on.
func TestDialNoPortForTheSecond(t *testing.T) {
	noPort := func(w *world) {
		w.d.Connect = func(ctx context.Context, local, remote netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
			if h == nil {
				return nil, opError(syscall.EADDRNOTAVAIL)
			}
			return w.connect(ctx, local, remote, h)
		}
	}
	t.Run("answered late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
			defer w.host.close()
			noPort(w)
			w.path = func(s *segment) bool { return s.kind != tcpinc.SYN || s.n >= 3 }
			c, err := w.dial(tcpinc.Opportunistic)
			isEncrypted(t, c, err)
		})
	})
	t.Run("silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
			defer w.host.close()
			noPort(w)
			w.path = func(s *segment) bool { return s.kind != tcpinc.SYN }
			if _, err := w.dial(tcpinc.Opportunistic); !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("got %v", err)
			}
		})
	})
}
