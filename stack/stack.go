package stack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"innertun/stack/shim"
)

const (
	nicID = 1

	minBuffer     = 4 << 10
	defaultBuffer = 1 << 20

	congestionControl = "cubic"

	// Ports and memory set the limit: a thousand connections a second, each a few KB, for this long. The clock of
	// the initial sequence numbers and the timestamps keep later incarnations apart.
	timeWait = 10 * time.Second
)

// Stack is one TCP/IP stack on one link.
type Stack struct {
	cfg   Config
	log   *slog.Logger
	clock tcpip.Clock
	ns    *tcpipstack.Stack
	shim  *shim.Shim
	ports *portPicker

	attempts  sync.Map // Flow to *attempt: the dials under way
	transfers transferBuffers
	forwarder atomic.Pointer[forwarder]
	drops     drops
	narrowed  atomic.Bool

	mu        sync.Mutex
	addresses map[netip.Addr]netip.Prefix
	closed    bool
	closing   chan struct{}
	pending   sync.WaitGroup // goroutines that Close waits for
}

// New builds a stack on cfg.Link, which belongs to the stack from then on.
func New(cfg Config) (*Stack, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var seed [sha256.Size + 8]byte
	if _, err := io.ReadFull(cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("stack: reading randomness: %w", err)
	}
	s := &Stack{
		cfg:       cfg,
		log:       cfg.Logger,
		clock:     cfg.Clock,
		ports:     newPortPicker(cfg.Ports, [sha256.Size]byte(seed[:sha256.Size])),
		addresses: make(map[netip.Addr]netip.Prefix),
		closing:   make(chan struct{}),
	}
	s.ns = newNetstack(cfg, int64(binary.BigEndian.Uint64(seed[sha256.Size:])))
	s.shim = shim.New(shim.Config{
		Lower: cfg.Link.LinkEndpoint(), Host: (*host)(s), Clock: cfg.Clock, MaxFlows: cfg.MaxFlows, MaxUpgraded: cfg.MaxHalfOpen,
		Timeouts: s.ns.Stats().TCP.Timeouts,
	})
	if a, ok := cfg.Link.(announcer); ok {
		a.OnAnnounce(s.neighborAnnounced)
	}
	if err := s.setUp(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// newNetstack leaves out all that would speak or decide on its own in a host whose addresses the kernel owns: duplicate
// address detection, router advertisements and solicitations, SLAAC, MLD, IGMP.
func newNetstack(cfg Config, seed int64) *tcpipstack.Stack {
	return tcpipstack.New(tcpipstack.Options{
		NetworkProtocols: []tcpipstack.NetworkProtocolFactory{
			arp.NewProtocol,
			ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{
				NDPConfigs: ipv6.NDPConfigurations{HandleRAs: ipv6.HandlingRAsDisabled},
			}),
		},
		TransportProtocols: []tcpipstack.TransportProtocolFactory{tcp.NewProtocol},
		NUDConfigs:         reachability(),
		Clock:              cfg.Clock,
		RandSource:         &lockedSource{src: mathrand.NewSource(seed)},
		SecureRNG:          secure(cfg.Rand),
	})
}

func (s *Stack) setUp() error {
	if err := s.tuneTCP(); err != nil {
		return err
	}
	if s.cfg.Promiscuous {
		s.catch()
	}
	if err := s.ns.CreateNIC(nicID, s.shim); err != nil {
		return fmt.Errorf("stack: attaching the link: %s", err)
	}
	if s.cfg.Promiscuous {
		if err := s.ns.SetPromiscuousMode(nicID, true); err != nil {
			return fmt.Errorf("stack: promiscuous mode: %s", err)
		}
		if err := s.ns.SetSpoofing(nicID, true); err != nil {
			return fmt.Errorf("stack: spoofing: %s", err)
		}
	}
	if err := s.SetAddresses(s.cfg.Addresses); err != nil {
		return err
	}
	return s.SetRoutes(s.cfg.Routes)
}

func (s *Stack) tuneTCP() error {
	sack := tcpip.TCPSACKEnabled(true)
	// Without RACK: the netstack's tail loss probe puts the retransmission timer out, and puts it on again only if by
	// its count something is outstanding. It miscounts around a FIN: one connection in some hundred over a lossy path
	// then waits for ever for its last segment. Loss recovery by SACK (RFC 6675) and the plain timer have no such hole.
	recovery := tcpip.TCPRecovery(0)
	cc := tcpip.CongestionControlOption(congestionControl)
	delay := tcpip.TCPDelayEnabled(false)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	reuse := tcpip.TCPTimeWaitReuseGlobal
	initial := min(defaultBuffer, s.cfg.MaxBuffer)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: initial, Max: s.cfg.MaxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: initial, Max: s.cfg.MaxBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &cc, &delay, &moderate, &wait, &reuse, &receive, &send} {
		if err := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("stack: setting %T: %s", o, err)
		}
	}
	return nil
}

// SetAddresses makes these, and no others, the addresses of the stack. Connections on an address that goes away die.
func (s *Stack) SetAddresses(want []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := make(map[netip.Addr]netip.Prefix, len(want))
	for _, p := range want {
		if !p.IsValid() {
			return fmt.Errorf("stack: %v is not an address with a prefix length", p)
		}
		keep[p.Addr().Unmap()] = p
	}
	for a, p := range s.addresses {
		if keep[a] == p {
			continue
		}
		if err := s.ns.RemoveAddress(nicID, toAddress(a)); err != nil {
			return fmt.Errorf("stack: removing address %s: %s", a, err)
		}
		delete(s.addresses, a)
	}
	for a, p := range keep {
		if _, ok := s.addresses[a]; ok {
			continue
		}
		pa := tcpip.ProtocolAddress{
			Protocol:          protocolOf(a),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a), PrefixLen: p.Bits()},
		}
		if err := s.ns.AddProtocolAddress(nicID, pa, tcpipstack.AddressProperties{}); err != nil {
			return fmt.Errorf("stack: adding address %s: %s", p, err)
		}
		s.addresses[a] = p
	}
	return nil
}

// SetRoutes replaces the routing table. A promiscuous stack has all destinations on its link in any case.
func (s *Stack) SetRoutes(routes []Route) error {
	var table []tcpip.Route
	add := func(p netip.Prefix, gw netip.Addr) error {
		subnet, err := tcpip.NewSubnet(toAddress(p.Masked().Addr()), tcpip.MaskFromBytes(maskOf(p)))
		if err != nil {
			return fmt.Errorf("stack: route to %s: %w", p, err)
		}
		r := tcpip.Route{Destination: subnet, NIC: nicID}
		if gw.IsValid() {
			r.Gateway = toAddress(gw.Unmap())
		}
		table = append(table, r)
		return nil
	}
	for _, r := range routes {
		if !r.Prefix.IsValid() {
			return fmt.Errorf("stack: a route has no destination prefix")
		}
		if r.Gateway.IsValid() && r.Gateway.Unmap().Is4() != r.Prefix.Addr().Is4() {
			return fmt.Errorf("stack: route to %s: gateway %s is of the other address family", r.Prefix, r.Gateway)
		}
		if err := add(r.Prefix, r.Gateway); err != nil {
			return err
		}
	}
	if s.cfg.Promiscuous {
		for _, p := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
			if err := add(p, netip.Addr{}); err != nil {
				return err
			}
		}
	}
	// The netstack takes the first route that matches: the longest prefix goes first.
	sortRoutes(table)
	s.ns.SetRouteTable(table)
	return nil
}

// Close ends every connection with a RST, closes the link, and returns when no goroutine of the stack is left.
// Accept, Dial and handlers of Forward that are under way fail with net.ErrClosed.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.closing)
	s.mu.Unlock()

	if f := s.forwarder.Load(); f != nil {
		f.stop()
	}
	s.ns.Close()
	s.endPending()
	s.shim.Stop()
	err := s.cfg.Link.Close()
	s.ns.Wait()
	return err
}

// endPending waits for dials and handlers. A handler that was about to accept may open an endpoint only now, and would
// wait for its peer: end those too.
func (s *Stack) endPending() {
	done := make(chan struct{})
	go func() {
		s.pending.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(10 * time.Millisecond):
			for _, ep := range s.ns.RegisteredEndpoints() {
				ep.Abort()
			}
		}
	}
}

// begin counts a goroutine that Close waits for; false once Close was called.
func (s *Stack) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.pending.Add(1)
	return true
}
