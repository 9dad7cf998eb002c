package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/relay"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// dialTimeout bounds the opening of a connection for a SOCKS client. One that came through the TUN has no bound but its
// application's own: the kernel goes on sending SYNs for as long as it was told to.
const dialTimeout = 60 * time.Second

// outbound opens connections for local programs.
type outbound struct {
	policies *config.Policies
	dialer   *tcpinc.Dialer
	kernel   kernelDialer
	where    func(netip.Addr) place
	registry *conns.Registry
	peers    *identities
}

// errOtherInterface says why a connection that must be encrypted cannot be.
var errOtherInterface = errors.New("the host's routes lead there by another interface than the egress interface")

// errThisHost says why a peer on this host cannot be proven.
var errThisHost = errors.New("it is this host itself, to which nothing is proven; exempt it by a [[peer]] before the one that asks, with auth = \"none\"")

// outgoing is an open connection with its entry in the registry.
type outgoing struct {
	conn  relay.Conn
	entry *conns.Conn
}

// open opens a connection to one address. source is the application's own address, or invalid. name is what a SOCKS
// client asked for, if it asked by name. first, of an application that was accepted ahead, is what is sent first.
func (o *outbound) open(ctx context.Context, source netip.Addr, name string, to netip.AddrPort, first []byte) (outgoing, error) {
	entry := o.registry.Add(conns.Client, netip.AddrPortFrom(source, 0), to)
	var conn relay.Conn
	var err error
	at := onWire
	if !source.IsValid() { // what came through the TUN is known to leave by the interface: the kernel has looked already
		at = o.where(to.Addr())
	}
	decision := o.policies.Lookup(name, to.Addr(), to.Port())
	auth := o.peers.authenticator(o.policies.Peer(name, to.Addr(), to.Port()), name, to)
	switch {
	case at == onWire:
		options := o.policies.Dialling(decision)
		options.Auth, options.EarlyData = auth, first
		conn, err = o.openWire(ctx, entry, source, to, options)
	case at == otherInterface && (auth != nil || o.mustEncrypt(to, decision.Policy)):
		err = &tcpinc.RequiredError{Remote: to, Reason: eno.Local, Err: errOtherInterface}
	case auth != nil: // perhaps by what a name was made to stand for
		err = &tcpinc.RequiredError{Remote: to, Reason: eno.Local, Err: errThisHost}
	default:
		conn, err = o.openLocal(ctx, entry, to)
		if err == nil && len(first) > 0 {
			if _, err = conn.Write(first); err != nil {
				relay.Abort(conn)
			}
		}
	}
	if err != nil {
		o.peers.noteRefusal(destination(name, to), err)
		fail(entry, err)
		return outgoing{}, err
	}
	entry.BytesOut.Add(uint64(len(first)))
	return outgoing{conn, entry}, nil
}

// mustEncrypt reports whether policy forbids a plain connection to a destination.
func (o *outbound) mustEncrypt(to netip.AddrPort, p tcpinc.Policy) bool {
	return p == tcpinc.Require || p == tcpinc.Ratchet && o.dialer.Paths.MustEncrypt(to, time.Now())
}

func (o *outbound) openLocal(ctx context.Context, entry *conns.Conn, to netip.AddrPort) (relay.Conn, error) {
	start := time.Now()
	conn, err := o.kernel.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	entry.Established(conns.Established{
		Local:          addrPort(conn.LocalAddr()),
		FallbackReason: eno.Local.String(),
		Handshake:      time.Since(start),
	})
	return conn, nil
}

func (o *outbound) openWire(ctx context.Context, entry *conns.Conn, source netip.Addr, to netip.AddrPort, options tcpinc.DialOptions) (relay.Conn, error) {
	conn, err := o.dialer.Dial(ctx, source, to, options)
	if err != nil {
		return nil, err
	}
	establish(entry, conn, o.peers)
	return conn, nil
}

// establish notes what the opening of a connection over the wire came to.
func establish(entry *conns.Conn, conn *tcpinc.Conn, peers *identities) {
	st := conn.ConnectionState()
	e := conns.Established{
		Local:     addrPort(conn.LocalAddr()),
		Remote:    addrPort(conn.RemoteAddr()),
		Encrypted: st.Encrypted,
		AppAware:  st.PeerAppAware,
		Handshake: st.HandshakeTime,

		InnerSpace: st.InnerSpace,
		EarlyData:  st.EarlyData,
		Downgraded: st.Downgraded,
	}
	if st.Encrypted {
		e.TEP, e.Cipher, e.SessionID, e.Resumed = tcpinc.TEPName(st.TEP), st.Cipher.String(), st.SessionID, st.Resumed
	} else {
		e.FallbackReason = st.FallbackReason.String()
	}
	entry.Established(e)
	c, onWire := conn.NetConn().(*stack.Conn)
	entry.SetLive(func() (l conns.Live) {
		if onWire {
			l.RTT = c.Info().RTT
		}
		st := conn.ConnectionState()
		l.Peer = peers.name(st.PeerIdentity)
		l.Resets = st.ResetsRefused
		l.Options = conns.Options{
			Sent: st.Options.OptionsSent, Received: st.Options.OptionsReceived, Unknown: st.Options.Unknown, Missed: st.Options.Missed,
		}
		l.PeerMTU = st.PeerMTU
		l.Rekeys = uint64(max(st.Sent.Generation, st.Received.Generation))
		return l
	})
}

// fail notes why a connection failed.
func fail(entry *conns.Conn, err error) {
	reason := ""
	var required *tcpinc.RequiredError
	if errors.As(err, &required) {
		reason = required.Reason.String()
	}
	if required != nil && required.Downgraded || errors.Is(err, tcpinc.ErrInnerSpaceMissing) {
		entry.Downgraded()
	}
	entry.Fail(failureKind(err), reason, err)
}

// failureKind is the word under which status counts a failure.
func failureKind(err error) string {
	switch {
	case errors.Is(err, tcpinc.ErrEncryptionRequired), errors.Is(err, tcpinc.ErrInnerSpaceMissing):
		return "require"
	case errors.Is(err, tcpinc.ErrPeerIdentity):
		return "identity"
	case errors.Is(err, tcpinc.ErrCrowded):
		return "crowded"
	case isIntegrity(err):
		return "integrity"
	case errors.Is(err, tcpcrypt.ErrPeerSilent):
		return "silent"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, tcpinc.ErrNoAnswer):
		return "timeout"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return "reset"
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return "cancelled"
	}
	return "other"
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
