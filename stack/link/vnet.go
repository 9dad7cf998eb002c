package link

import (
	"encoding/binary"
	"errors"
)

// vnetHeaderLen is the length of a virtio-net header, octets.
const vnetHeaderLen = 10

// Values of the virtio-net header (Virtio 1.2, Section 5.1.6).
const (
	vnetNeedsChecksum = 1 // the sum at csumStart+csumOffset covers the pseudo-header only
	vnetDataValid     = 2 // the kernel or the device has verified the sum

	vnetGSONone  = 0
	vnetGSOTCPv4 = 1
	vnetGSOTCPv6 = 4
)

var errShortVnetHeader = errors.New("link: virtio-net header is shorter than 10 octets")

// vnetHeader is struct virtio_net_hdr in the machine's own byte order, as TUN devices and packet sockets use it.
type vnetHeader struct {
	flags      uint8
	gsoType    uint8
	headerLen  uint16 // octets of all headers, link layer included
	gsoSize    uint16 // payload octets of each segment
	csumStart  uint16 // octets from the start of the packet
	csumOffset uint16 // octets from csumStart
}

// appendVnetHeader appends the 10 octets of h to dst.
func appendVnetHeader(dst []byte, h vnetHeader) []byte {
	dst = append(dst, h.flags, h.gsoType)
	dst = binary.NativeEndian.AppendUint16(dst, h.headerLen)
	dst = binary.NativeEndian.AppendUint16(dst, h.gsoSize)
	dst = binary.NativeEndian.AppendUint16(dst, h.csumStart)
	return binary.NativeEndian.AppendUint16(dst, h.csumOffset)
}

// parseVnetHeader reads a header from the front of b and returns the octets it took.
func parseVnetHeader(b []byte) (vnetHeader, int, error) {
	if len(b) < vnetHeaderLen {
		return vnetHeader{}, 0, errShortVnetHeader
	}
	return vnetHeader{
		flags:      b[0],
		gsoType:    b[1],
		headerLen:  binary.NativeEndian.Uint16(b[2:]),
		gsoSize:    binary.NativeEndian.Uint16(b[4:]),
		csumStart:  binary.NativeEndian.Uint16(b[6:]),
		csumOffset: binary.NativeEndian.Uint16(b[8:]),
	}, vnetHeaderLen, nil
}

// checksumVouched reports whether the transport checksum needs no verification: it was verified, or never computed
// because the packet has not left a machine's memory.
func (h vnetHeader) checksumVouched() bool { return h.flags&(vnetNeedsChecksum|vnetDataValid) != 0 }
