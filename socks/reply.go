package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// Code is the outcome of a request (RFC 1928, Section 6).
type Code byte

const (
	Succeeded               Code = 0x00
	GeneralFailure          Code = 0x01
	NotAllowed              Code = 0x02
	NetworkUnreachable      Code = 0x03
	HostUnreachable         Code = 0x04
	ConnectionRefused       Code = 0x05
	TTLExpired              Code = 0x06
	CommandNotSupported     Code = 0x07
	AddressTypeNotSupported Code = 0x08
)

func (c Code) String() string {
	switch c {
	case Succeeded:
		return "succeeded"
	case GeneralFailure:
		return "general failure"
	case NotAllowed:
		return "not allowed by ruleset"
	case NetworkUnreachable:
		return "network unreachable"
	case HostUnreachable:
		return "host unreachable"
	case ConnectionRefused:
		return "connection refused"
	case TTLExpired:
		return "TTL expired"
	case CommandNotSupported:
		return "command not supported"
	case AddressTypeNotSupported:
		return "address type not supported"
	}
	return fmt.Sprintf("reply %#02x", byte(c))
}

// Reply answers a Request (RFC 1928, Section 6).
type Reply struct {
	Code  Code
	Bound Address
}

// AppendReply appends r to dst. A Bound that is not set goes as 0.0.0.0.
func AppendReply(dst []byte, r Reply) []byte {
	if !r.Bound.IP.IsValid() && r.Bound.Name == "" {
		r.Bound.IP = netip.IPv4Unspecified()
	}
	return AppendAddress(append(dst, Version, byte(r.Code), 0), r.Bound)
}

// ParseReply reads a Reply from the start of b. RSV is ignored.
func ParseReply(b []byte) (Reply, int, error) {
	r, n, err := ParseRequest(b) // the same fields in the same places
	return Reply{Code: Code(r.Command), Bound: r.Dest}, n, err
}

// CodeOf returns the reply code that tells a client best why its connection did not come about.
//
// An error in err's chain may choose by itself with a method SOCKSReply() byte. A destination that stays silent is "TTL
// expired", the one code left that a client can tell from the rest, and what Dante and Tor send as well. A name that
// does not resolve is "host unreachable".
func CodeOf(err error) Code {
	var own interface{ SOCKSReply() byte }
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case err == nil:
		return Succeeded
	case errors.As(err, &own):
		return Code(own.SOCKSReply())
	case errors.As(err, &dns):
		if dns.IsTimeout {
			return TTLExpired
		}
		return HostUnreachable
	case errors.As(err, &errno):
		switch errno {
		case syscall.ECONNREFUSED:
			return ConnectionRefused
		case syscall.EHOSTUNREACH, syscall.EHOSTDOWN:
			return HostUnreachable
		case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL:
			return NetworkUnreachable
		case syscall.ETIMEDOUT:
			return TTLExpired
		case syscall.EACCES, syscall.EPERM:
			return NotAllowed
		case syscall.EAFNOSUPPORT:
			return AddressTypeNotSupported
		}
		return GeneralFailure
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return TTLExpired
	}
	return GeneralFailure
}
