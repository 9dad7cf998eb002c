// Package config is the daemon's configuration: a TOML file, its defaults, and the flags that override it. Whatever is
// wrong is reported with its key and line, all of it at once.
package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"innertun/socks"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// Defaults that other commands need too.
const (
	DefaultSocket = "/run/innertun/control.sock"
	DefaultSOCKS  = "127.0.0.1:1080"
)

// Config is a whole configuration. TUN, SOCKS and Serve are what it enables.
type Config struct {
	Egress   Egress
	TCPInc   TCPInc
	TUN      *TUN
	SOCKS    *SOCKS
	Serve    []Serve
	Rules    []Rule
	Control  Control
	Identity Identity
	Peers    []Peer
	KeyLog   string // file name, "": none
}

// Egress is [egress].
type Egress struct {
	Mode      string // "auto" or "packet"
	Interface string // "": that of the default route
	Ports     Ports
}

// TCPInc is [tcpinc].
type TCPInc struct {
	Policy     tcpinc.Policy
	TEPs       []eno.TEP         // preferred first
	Ciphers    []tcpcrypt.Cipher // preferred first
	InnerSpace tcpinc.InnerSpaceMode
	SkipPorts  []uint16
	Resume     bool // offer and accept to resume sessions
	// SessionCache keeps the secrets of connections, so that later ones can be resumed.
	SessionCache bool
	// EarlyData has the first octets sent in the SYN, and accepted there. They may be delivered twice.
	EarlyData bool
	Rekey     Rekey
	RST       tcpinc.ResetMode
	AppAware  string // "auto", "on" or "mandatory"
}

// Rekey says when a key generation ends.
type Rekey struct {
	Bytes, Frames uint64
	Time          time.Duration
}

// TUN is [tun].
type TUN struct {
	Name            string
	Routes, Exclude []netip.Prefix
	MTU             int
}

// SOCKS is [socks].
type SOCKS struct {
	Listen netip.AddrPort // an invalid address: both families
	Users  []socks.User
}

// Overrides is what a [[rule]] or a [[serve]] may have otherwise than [tcpinc].
type Overrides struct {
	TEPs    []eno.TEP         // preferred first; nil: those of [tcpinc]
	Ciphers []tcpcrypt.Cipher // likewise

	Resume, SessionCache *bool // nil: as [tcpinc] has it

	InnerSpace *tcpinc.InnerSpaceMode // nil: as [tcpinc] has it

	EarlyData *bool // nil: as [tcpinc] has it
}

// Early is whether early data is sent, or accepted, where o is in force.
func (c *Config) Early(o Overrides) bool {
	if o.EarlyData != nil {
		return *o.EarlyData
	}
	return c.TCPInc.EarlyData
}

// Sessions is whether connections are resumed, and their secrets cached for later ones, where o is in force.
func (c *Config) Sessions(o Overrides) (resume, cache bool) {
	resume, cache = c.TCPInc.Resume, c.TCPInc.SessionCache
	if o.Resume != nil {
		resume = *o.Resume
	}
	if o.SessionCache != nil {
		cache = *o.SessionCache
	}
	return resume, cache
}

// Serve is one [[serve]].
type Serve struct {
	Listen  netip.AddrPort // an invalid address: both families
	Forward netip.AddrPort
	Source  string // "none"
	Overrides
	Auth  Auth     // AuthNone or AuthPinned: of the client
	Peers []string // names of those that may connect; empty: all that have a key
}

// Control is [control].
type Control struct{ Socket string }

// Default is the configuration of an empty file: it enables nothing.
func Default() *Config {
	return &Config{
		Egress: Egress{Mode: "auto", Ports: Ports{61000, 65535}},
		TCPInc: TCPInc{
			Policy:     tcpinc.Opportunistic,
			TEPs:       tcpcrypt.TEPs(),
			Ciphers:    tcpcrypt.Ciphers(),
			InnerSpace: tcpinc.InnerSpaceAuto,
			SkipPorts:  []uint16{22, 443, 465, 853, 989, 990, 993, 995},
			Resume:     true, SessionCache: true,
			Rekey:    Rekey{Bytes: 16 << 30, Frames: 16777216, Time: time.Hour},
			RST:      tcpinc.VerifyResets,
			AppAware: "auto",
		},
		Control:  Control{Socket: DefaultSocket},
		Identity: Identity{KnownPeers: DefaultKnownPeers},
	}
}

// DefaultTUN is what an empty [tun] means.
func DefaultTUN() *TUN {
	return &TUN{
		Name:   "inner0",
		Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		MTU:    1500,
	}
}

// Load reads a file.
func Load(name string) (*Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(name, string(text))
}

// Parse reads the text of a file; errors name the file as given. They are *Error, joined.
func Parse(name, text string) (*Config, error) {
	root, doc, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	c := Default()
	readRoot(root, c)
	root.done()
	if err := doc.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Enabled reports whether the configuration enables anything at all.
func (c *Config) Enabled() bool { return c.TUN != nil || c.SOCKS != nil || len(c.Serve) > 0 }

// Warn logs what is allowed but hardly meant.
func (c *Config) Warn(log *slog.Logger) {
	for i := range c.Rules {
		if r := &c.Rules[i]; c.TUN != nil && len(r.names) > 0 {
			log.Warn("a rule with names applies to SOCKS requests only: a connection through the TUN has no name",
				"rule", i+1, "to", r.To)
		}
	}
	for i := range c.Peers {
		if p := &c.Peers[i]; c.TUN != nil && len(p.at.names) > 0 {
			log.Warn("a peer with names applies to SOCKS requests only: a connection through the TUN has no name", "peer", p.Name, "to", p.at.To)
		}
	}
	if len(c.Serve) > 0 && c.TCPInc.Policy == tcpinc.Ratchet {
		log.Warn("policy ratchet is for destinations: served ports are opportunistic")
	}
	if s := c.SOCKS; s != nil && len(s.Users) == 0 && !s.Listen.Addr().IsLoopback() {
		log.Warn("the SOCKS port is open to other hosts and asks for no password", "port", s.Listen.Port())
	}
}
