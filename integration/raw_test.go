package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/netlab"
)

// TCP flags (RFC 9293, Section 3.1).
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// rawPeer sends TCP segments of any content from the client to the server, IPv4, and sees what comes back. The
// client's kernel must be kept from answering for it.
type rawPeer struct {
	fd       int
	src, dst [4]byte
}

// rawPorts are the source ports of raw peers.
const rawPorts = "20000:29999"

func newRawPeer(t *testing.T, h *netlab.Host) *rawPeer {
	t.Helper()
	h.Script(t, "iptables -A OUTPUT -p tcp --sport "+rawPorts+" --tcp-flags RST RST -m mark ! --mark 7 -j DROP")
	p := &rawPeer{src: netlab.ClientIP4.As4(), dst: netlab.ServerIP4.As4()}
	if err := h.Do(func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_MARK, 7),
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	return p
}

// rawConn is one connection, or what passes for one.
type rawConn struct {
	peer     *rawPeer
	port, to uint16
	seq, ack uint32
}

type rawSegment struct {
	flags    byte
	seq, ack uint32
	options  []byte
	payload  []byte
}

// send sends a segment with the next octets.
func (c *rawConn) send(flags byte, options, payload []byte) error {
	for len(options)%4 != 0 {
		options = append(options[:len(options):len(options)], 0)
	}
	b := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(b, c.port)
	binary.BigEndian.PutUint16(b[2:], c.to)
	binary.BigEndian.PutUint32(b[4:], c.seq)
	if flags&ack != 0 {
		binary.BigEndian.PutUint32(b[8:], c.ack)
	}
	b[12], b[13] = byte(20+len(options))<<2, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	b = append(append(b, options...), payload...)
	pseudo := append(append([]byte(nil), c.peer.src[:]...), c.peer.dst[:]...)
	pseudo = append(pseudo, 0, 6, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	c.seq += uint32(len(payload))
	if flags&(syn|fin) != 0 {
		c.seq++
	}
	return unix.Sendto(c.peer.fd, b, 0, &unix.SockaddrInet4{Addr: c.peer.dst})
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

var errSilence = errors.New("nothing came")

// wait returns the next segment for the connection that the filter accepts.
func (c *rawConn) wait(timeout time.Duration, accept func(rawSegment) bool) (s rawSegment, err error) {
	deadline := time.Now().Add(timeout)
	buf := make([]byte, 65600)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return s, errSilence
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.peer.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return s, err
		}
		if n == 0 {
			continue
		}
		n, _, err = unix.Recvfrom(c.peer.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		if s, ok := c.parse(buf[:n]); ok && accept(s) {
			return s, nil
		}
	}
}

func (c *rawConn) parse(b []byte) (s rawSegment, ok bool) {
	if len(b) < 20 || len(b) < int(b[0]&15)*4+20 {
		return s, false
	}
	b = b[int(b[0]&15)*4:]
	header := int(b[12]>>4) * 4
	if binary.BigEndian.Uint16(b) != c.to || binary.BigEndian.Uint16(b[2:]) != c.port || len(b) < header || header < 20 {
		return s, false
	}
	return rawSegment{b[13], binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]),
		append([]byte(nil), b[20:header]...), append([]byte(nil), b[header:]...)}, true
}

// open makes the three-way handshake with the given ENO options; third may be nil.
func (c *rawConn) open(first, third []byte) (synAck rawSegment, err error) {
	if err := c.send(syn, first, nil); err != nil {
		return synAck, err
	}
	synAck, err = c.wait(netlab.Patience, func(s rawSegment) bool { return s.flags&(syn|ack) == syn|ack })
	if err != nil {
		return synAck, fmt.Errorf("SYN-ACK: %w", err)
	}
	c.ack = synAck.seq + 1
	return synAck, c.send(ack, third, nil)
}

func isReset(s rawSegment) bool { return s.flags&rst != 0 }
