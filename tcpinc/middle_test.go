package tcpinc_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/hello"
)

// middle is somebody in the middle: towards the client he is a server, towards the server a client, each with tcpcrypt
// of its own, and he passes on what he reads.
type middle struct {
	*meeting // the server's side
	front    *network
	l        *tcpinc.Listener
	heard    bytes.Buffer
	all      sync.WaitGroup
}

// intercept puts somebody between a Dialer and the server of m. With an identity of his own he proves that; without, he
// passes on the hellos of the others.
func intercept(t *testing.T, m *meeting, own ed25519.PrivateKey) *middle {
	t.Helper()
	cfg := tcpinc.Config{AppAware: true}
	if own != nil {
		cfg.Identity = own
	}
	x := &middle{meeting: m, front: newNetwork(cfg)}
	x.l = x.front.listen(t, tcpinc.ListenConfig{Config: cfg})
	back := &tcpinc.Dialer{Connect: m.connect, Config: cfg}
	x.all.Go(func() {
		for {
			c, err := x.l.AcceptConn()
			if err != nil {
				return
			}
			s, err := back.Dial(context.Background(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
			if err != nil {
				c.Abort()
				continue
			}
			pass := func(to, from *tcpinc.Conn, heard io.Writer) {
				if _, err := io.Copy(io.MultiWriter(to, heard), raw(from, own)); err != nil {
					to.Abort()
				}
				to.CloseWrite()
			}
			x.all.Go(func() { pass(s, c, &x.heard) })
			x.all.Go(func() { pass(c, s, io.Discard) })
		}
	})
	return x
}

// raw is what the middle reads of a connection: with hellos, if he has none of his own to send.
func raw(c *tcpinc.Conn, own ed25519.PrivateKey) io.Reader {
	if own == nil {
		return tcpinc.Raw(c)
	}
	return c
}

func (x *middle) close() {
	x.l.Close()
	x.host.close()
	x.all.Wait()
}

// Somebody who terminates tcpcrypt on both sides and passes on what he reads is caught by whoever asks for an identity,
// whether he proves one of his own, or passes on the proofs of others; and hears nothing of the application before.
func TestManInTheMiddle(t *testing.T) {
	for name, own := range map[string]ed25519.PrivateKey{"with a key of his own": key(9), "passing on the proofs of others": nil} {
		for asks, c := range map[string]struct{ client, server tcpinc.Authenticator }{
			"the client, pinned":        {client: pinned("web", 2)},
			"the client, known":         {client: firstUse{server: public(2)}},
			"the server, pinned":        {server: pinned("laptop", 1)},
			"both, pinned":              {client: pinned("web", 2), server: pinned("laptop", 1)},
			"nobody, but both have one": {},
		} {
			t.Run(name+"/"+asks, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := meet(t, tcpinc.Config{}, tcpinc.Config{Identity: key(2)}, c.server)
					x := intercept(t, m, own)
					d := &tcpinc.Dialer{Connect: x.front.connect, Config: tcpinc.Config{Identity: key(1)}}
					const secret = "a secret of the application"
					conn, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Auth: c.client})
					if (err == nil) == (c.client != nil) {
						t.Errorf("dialling: %v", err)
					}
					if c.client != nil {
						isRefused(t, err, tcpinc.ErrPeerIdentity) // the peer may be quicker, and reset it
					}
					if conn != nil {
						conn.SetDeadline(time.Now().Add(time.Minute))
						conn.Write([]byte(secret))
						conn.CloseWrite()
						got, err := io.ReadAll(conn)
						// With a key of his own he gets away if nobody asked for anything. Proofs that he passes on end the connection
						// where they are read first.
						if own == nil || c.server != nil {
							if err == nil || len(got) > 0 {
								t.Errorf("%q came back, %v", got, err)
							}
						}
						conn.Close()
					}
					time.Sleep(10 * time.Second)
					synctest.Wait()
					x.close()
					if c.server != nil {
						if len(m.refused) != 1 {
							t.Fatalf("the server refused %v", m.refused)
						}
						isRefused(t, m.refused[0], tcpinc.ErrPeerIdentity)
					}
					if c.client != nil && strings.Contains(x.heard.String(), secret) {
						t.Error("he heard the secret")
					}
					if asked := c.client != nil || c.server != nil; asked && m.host.octets() > 0 {
						t.Errorf("%d octets for the server's application", m.host.octets())
					}
				})
			})
		}
	}
}

// A host's own proof, sent back to it, proves nothing.
func TestReflection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The echo server sends back whatever it reads: the client's hello.
		n := newNetwork(tcpinc.Config{AppAware: true})
		l := n.listen(t, tcpinc.ListenConfig{Config: tcpinc.Config{AppAware: true}})
		var all sync.WaitGroup
		all.Go(func() {
			for {
				c, err := l.AcceptConn()
				if err != nil {
					return
				}
				all.Go(func() {
					r := tcpinc.Raw(c)
					io.Copy(r, r)
					c.Abort()
				})
			}
		})
		d := &tcpinc.Dialer{Connect: n.connect, Config: tcpinc.Config{Identity: key(1)}}
		_, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Auth: pinned("myself", 1)})
		isRefused(t, err, hello.ErrProof)
		l.Close()
		all.Wait()
	})
}
