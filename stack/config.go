// Package stack is the userspace TCP/IP of this program: Dial, Listen, Forward over a link. It is the only importer
// of gVisor, and it knows nothing of the protocols above it beyond this: a Handshake may carry TCP options and a
// payload in the opening segments of a connection.
package stack

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Link is where packets leave and arrive. Package stack/link builds them; to everyone else it is opaque.
type Link interface {
	LinkEndpoint() tcpipstack.LinkEndpoint
	Close() error
}

// Route says which packets go to which neighbour.
type Route struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // invalid: the destinations are on the link itself
}

// Defaults of Config.
const (
	DefaultMaxBuffer   = 16 << 20 // octets
	DefaultMaxFlows    = 16384
	DefaultMaxHalfOpen = 1024
	DefaultMaxRequests = 4096

	defaultFirstPort = 32768
	defaultLastPort  = 60999
)

// Config is what a Stack is made of.
type Config struct {
	Link      Link
	Addresses []netip.Prefix
	Routes    []Route
	// Promiscuous takes packets for any destination and answers from any source: the access stack. It needs no
	// addresses and no routes.
	Promiscuous bool
	// Ports are the local ports Dial may choose from; nil: 32768 to 60999.
	Ports []uint16
	// MaxBuffer bounds the receive and the send buffer of a connection, each, in octets; they grow up to it as
	// the path needs. 0: DefaultMaxBuffer.
	MaxBuffer int
	// Clock drives all timers and deadlines; nil: real time.
	Clock tcpip.Clock
	// Rand is the source of randomness; nil: crypto/rand.
	Rand   io.Reader
	Logger *slog.Logger
	// MaxFlows bounds the handshakes in progress that carry options, in both directions together.
	// 0: DefaultMaxFlows.
	MaxFlows int
	// MaxHalfOpen bounds, per listener, the half-open connections that hold state (beyond it SYN cookies serve) and
	// the connections not yet accepted; and for all listeners together the half-open connections whose SYN had payload
	// that are kept, if there is a way without (Fleeting). 0: DefaultMaxHalfOpen.
	MaxHalfOpen int
	// MaxRequests bounds the requests that Forward holds at once. 0: DefaultMaxRequests.
	MaxRequests int
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Link == nil {
		return cfg, errors.New("stack: Config.Link is missing: build one with package stack/link")
	}
	if cfg.MaxBuffer == 0 {
		cfg.MaxBuffer = DefaultMaxBuffer
	}
	if cfg.MaxBuffer < minBuffer {
		return cfg, fmt.Errorf("stack: Config.MaxBuffer is %d octets: the least is %d", cfg.MaxBuffer, minBuffer)
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = DefaultMaxFlows
	}
	if cfg.MaxHalfOpen == 0 {
		cfg.MaxHalfOpen = DefaultMaxHalfOpen
	}
	if cfg.MaxRequests == 0 {
		cfg.MaxRequests = DefaultMaxRequests
	}
	if cfg.MaxFlows < 0 || cfg.MaxHalfOpen < 0 || cfg.MaxRequests < 0 {
		return cfg, errors.New("stack: Config.MaxFlows, Config.MaxHalfOpen and Config.MaxRequests must not be negative")
	}
	if cfg.Clock == nil {
		cfg.Clock = tcpip.NewStdClock()
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Ports == nil {
		for p := defaultFirstPort; p <= defaultLastPort; p++ {
			cfg.Ports = append(cfg.Ports, uint16(p))
		}
	}
	return cfg, nil
}
