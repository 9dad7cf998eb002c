package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"innertun/cmd/internal/relay"
	"innertun/stack"
	"innertun/tcpinc"
)

// Where the first octets are to leave in the SYN, the application must have said them before: it is accepted ahead of the
// far end, which is otherwise asked first. That is done only for destinations to which early data can leave at that
// moment, and what the far end then refuses is passed on as an abort.
const (
	// firstWait is how long the application has for its first octets. One that waits for the other side to speak loses it.
	firstWait = 50 * time.Millisecond
	// firstOctets is how many of them are taken at most. What a SYN has no room for follows it.
	firstOctets = 16 << 10
)

// carriesEarly tells whether the first octets of a connection would leave in its SYN.
func (o *outbound) carriesEarly(source netip.Addr, name string, to netip.AddrPort) bool {
	decision := o.policies.Lookup(name, to.Addr(), to.Port())
	if !o.policies.Early(decision) || !source.IsValid() && o.where(to.Addr()) != onWire {
		return false
	}
	options := o.policies.Dialling(decision)
	options.Auth = o.peers.authenticator(o.policies.Peer(name, to.Addr(), to.Port()), name, to)
	return o.dialer.CarriesEarlyData(to, options)
}

// firstSaid returns what an accepted application says first; nothing if it has not said anything in time, or nothing at
// all. An error: it has gone.
func firstSaid(local net.Conn) ([]byte, error) {
	b := make([]byte, firstOctets)
	local.SetReadDeadline(time.Now().Add(firstWait))
	n, err := local.Read(b)
	local.SetReadDeadline(time.Time{})
	if err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil // the end is read again
	}
	return slices.Clip(b[:n]), err
}

// divertedEarly is diverted for a destination that takes early data.
func (d *daemon) divertedEarly(r *stack.Request) {
	in, err := r.Accept()
	if err != nil {
		return // the application has gone
	}
	d.relays.Go(func() {
		flow := r.Flow()
		d.relayEarly(d.ctx, in, flow.Remote.String(), func(ctx context.Context, first []byte) (outgoing, error) {
			return d.out.open(ctx, flow.Local.Addr(), "", flow.Remote, first)
		})
	})
}

// relayEarly opens the connection of an application that was accepted already, with what it says first, and relays.
func (d *daemon) relayEarly(ctx context.Context, local relay.Conn, to string, open func(context.Context, []byte) (outgoing, error)) {
	stop := context.AfterFunc(ctx, func() { relay.Abort(local) })
	first, err := firstSaid(local)
	if !stop() || err != nil {
		relay.Abort(local)
		return
	}
	opening, cancel := context.WithTimeout(ctx, dialTimeout)
	out, err := open(opening, first)
	cancel()
	if err != nil {
		d.logRefusal(to, err)
		relay.Abort(local)
		return
	}
	d.relay(ctx, local, out)
}

// earlyUpstream stands for a connection that a SOCKS client is told to have, and that is opened when it has said its
// first octets.
type earlyUpstream struct {
	to socksDestination
	at netip.Addr // the one of its addresses that takes early data
}

var errNotOpen = errors.New("the connection is not open yet")

func (*earlyUpstream) Read([]byte) (int, error)         { return 0, errNotOpen }
func (*earlyUpstream) Write([]byte) (int, error)        { return 0, errNotOpen }
func (*earlyUpstream) Close() error                     { return nil }
func (*earlyUpstream) LocalAddr() net.Addr              { return nil } // not known: the client is told all zeros
func (*earlyUpstream) RemoteAddr() net.Addr             { return nil }
func (*earlyUpstream) SetDeadline(time.Time) error      { return nil }
func (*earlyUpstream) SetReadDeadline(time.Time) error  { return nil }
func (*earlyUpstream) SetWriteDeadline(time.Time) error { return nil }

// socksEarly returns what stands for the connection, if the address that is to be tried first takes early data.
func (d *daemon) socksEarly(to socksDestination) (*earlyUpstream, bool) {
	if len(to.addrs) == 0 || !d.out.carriesEarly(netip.Addr{}, to.name, netip.AddrPortFrom(to.addrs[0], to.port)) {
		return nil, false
	}
	return &earlyUpstream{to, to.addrs[0]}, true
}

// socksRelayEarly opens the connection and relays. If the address with early data fails, and that cannot have arrived, the others
// are tried; as they are tried beside each other, the one that is kept gets the first octets then.
func (d *daemon) socksRelayEarly(ctx context.Context, client relay.Conn, to socksDestination, at netip.Addr) {
	d.relayEarly(ctx, client, to.text, func(ctx context.Context, first []byte) (outgoing, error) {
		out, err := d.out.open(ctx, netip.Addr{}, to.name, netip.AddrPortFrom(at, to.port), first)
		others := to
		others.addrs = slices.DeleteFunc(slices.Clone(to.addrs), func(a netip.Addr) bool { return a == at })
		if err == nil || len(others.addrs) == 0 || ctx.Err() != nil || errors.Is(err, tcpinc.ErrFirstSent) {
			return out, err
		}
		d.logRefusal(netip.AddrPortFrom(at, to.port).String(), err)
		if out, err = d.openAny(ctx, others); err != nil {
			return out, err
		}
		n, err := out.conn.Write(first)
		out.entry.BytesOut.Add(uint64(n))
		if err != nil {
			relay.Abort(out.conn)
			fail(out.entry, err)
		}
		return out, err
	})
}
