// Package tcpinc turns TCP connections into encrypted streams where the peer can do that, and into plain ones where it
// cannot, as policy has it: TCP-ENO (RFC 8547) negotiates, tcpcrypt (RFC 8548) encrypts.
//
// It works over any TCP stack that lets a Handshake take part in the opening of a connection. A Dialer and a Listener
// hand out a Conn, which is a net.Conn with half-close and a ConnectionState.
package tcpinc

import (
	"context"
	"fmt"
	"net/netip"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// Transport is one open TCP connection. Abort sends RST and unblocks every call.
type Transport = tcpcrypt.Transport

// Segment is the kind of a segment in the opening of a connection.
type Segment = eno.Segment

const (
	SYN    = eno.SYN
	SYNACK = eno.SYNACK
	NonSYN = eno.NonSYN
)

// ConnectFunc opens a TCP connection on which h takes part in the handshake; h is nil for a plain one. An invalid local
// address and a local port of 0 are chosen. It must return soon after ctx has ended, and must have handed the peer's SYN-ACK to h before it
// returns a connection.
type ConnectFunc func(ctx context.Context, local, remote netip.AddrPort, h *Handshake) (Transport, error)

// Policy says what is to become of a connection.
type Policy uint8

const (
	Opportunistic Policy = iota // encrypted if the peer can
	Require                     // encrypted or not at all
	Off                         // plain
	Ratchet                     // opportunistic until the first success with a destination, then required
)

var policyNames = map[Policy]string{Opportunistic: "opportunistic", Require: "require", Off: "off", Ratchet: "ratchet"}

func (p Policy) String() string {
	if name, ok := policyNames[p]; ok {
		return name
	}
	return fmt.Sprintf("policy(%d)", uint8(p))
}

// ParsePolicy returns the policy that String would write as name.
func ParsePolicy(name string) (Policy, error) {
	for p, n := range policyNames {
		if n == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown policy %q (known: opportunistic, require, off, ratchet)", name)
}

// known returns an error for what is no policy.
func (p Policy) known() error {
	if _, ok := policyNames[p]; !ok {
		return fmt.Errorf("tcpinc: there is no %v", p)
	}
	return nil
}
