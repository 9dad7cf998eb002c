package socks

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
)

// Types of an address (RFC 1928, Section 5).
const (
	typeIPv4 = 0x01
	typeName = 0x03
	typeIPv6 = 0x04
)

// Address is a host and a port. The host is an IP address or, if IP is not valid, a name of 1 to 255 octets.
type Address struct {
	IP   netip.Addr
	Name string
	Port uint16
}

// String is host:port, as net.Dial takes it.
func (a Address) String() string {
	host := a.Name
	if a.IP.IsValid() {
		host = a.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.Port)))
}

// AppendAddress appends ATYP, the host and the port. An IPv4-mapped IPv6 address stays what it is; a name is cut at
// 255 octets.
func AppendAddress(dst []byte, a Address) []byte {
	switch {
	case a.IP.Is4():
		dst = append(append(dst, typeIPv4), a.IP.AsSlice()...)
	case a.IP.Is6():
		dst = append(append(dst, typeIPv6), a.IP.AsSlice()...)
	default:
		name := a.Name[:min(len(a.Name), 255)]
		dst = append(append(dst, typeName, byte(len(name))), name...)
	}
	return binary.BigEndian.AppendUint16(dst, a.Port)
}

// ParseAddress reads ATYP, a host and a port from the start of b. A name that is an IP address in letters becomes that
// address, which is what the client meant. Names with spaces or control characters are malformed.
func ParseAddress(b []byte) (Address, int, error) {
	if err := need(b, 1); err != nil {
		return Address{}, 0, err
	}
	var host []byte
	switch b[0] {
	case typeIPv4, typeIPv6:
		size := 4
		if b[0] == typeIPv6 {
			size = 16
		}
		if err := need(b, 1+size+2); err != nil {
			return Address{}, 0, err
		}
		host = b[1 : 1+size]
	case typeName:
		if err := need(b, 2); err != nil {
			return Address{}, 0, err
		}
		size := int(b[1])
		if size == 0 {
			return Address{}, 0, malformed("empty domain name")
		}
		if err := need(b, 2+size+2); err != nil {
			return Address{}, 0, err
		}
		host = b[2 : 2+size]
	default:
		return Address{}, 0, &AddressTypeError{Type: b[0]}
	}
	n := 1 + len(host)
	if b[0] == typeName {
		n++
	}
	a := Address{Port: binary.BigEndian.Uint16(b[n:])}
	n += 2
	if b[0] != typeName {
		a.IP, _ = netip.AddrFromSlice(host)
		return a, n, nil
	}
	for _, c := range host {
		if c <= ' ' || c == 0x7f {
			return Address{}, 0, malformed("character %#02x in a domain name", c)
		}
	}
	a.Name = string(host)
	if ip, err := netip.ParseAddr(a.Name); err == nil && ip.Zone() == "" {
		a.IP, a.Name = ip, ""
	}
	return a, n, nil
}
