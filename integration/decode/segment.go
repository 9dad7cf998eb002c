package decode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// TCP flags (RFC 9293, Section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Segment is one TCP segment of a capture, or a super-segment that the sending kernel had not yet cut up.
type Segment struct {
	Number   int // of the packet in the capture, from 1
	Time     time.Time
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    uint8
	Options  []byte // the octets of the header's option field
	Payload  []byte
	Length   int // payload octets on the wire; more than len(Payload) if the capture cut the packet short
}

func (s *Segment) String() string {
	return fmt.Sprintf("packet %d %v>%v seq %d ack %d flags %02x len %d", s.Number, s.Src, s.Dst, s.Seq, s.Ack, s.Flags, s.Length)
}

type packetReader interface {
	ReadPacketData() ([]byte, time.Time, layers.LinkType, error)
}

type classic struct{ *pcapgo.Reader }

func (c classic) ReadPacketData() ([]byte, time.Time, layers.LinkType, error) {
	b, ci, err := c.Reader.ReadPacketData()
	return b, ci.Timestamp, c.LinkType(), err
}

type nextGeneration struct{ *pcapgo.NgReader }

func (n nextGeneration) ReadPacketData() ([]byte, time.Time, layers.LinkType, error) {
	b, ci, err := n.NgReader.ReadPacketData()
	return b, ci.Timestamp, n.LinkType(), err
}

// ReadFile returns the TCP segments of a capture file, pcap or pcapng. Packets that are not TCP are left out.
func ReadFile(name string) ([]Segment, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	segs, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return segs, nil
}

// Read is ReadFile for a stream that can be rewound.
func Read(r io.ReadSeeker) ([]Segment, error) {
	var src packetReader
	if p, err := pcapgo.NewReader(r); err == nil {
		src = classic{p}
	} else {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			return nil, fmt.Errorf("neither pcap nor pcapng: %w", err)
		}
		src = nextGeneration{ng}
	}
	var segs []Segment
	for n := 1; ; n++ {
		b, at, link, err := src.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return segs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("packet %d: %w", n, err)
		}
		s, ok, err := parsePacket(link, b)
		if err != nil {
			return nil, fmt.Errorf("packet %d: %w", n, err)
		}
		if ok {
			s.Number, s.Time = n, at
			segs = append(segs, s)
		}
	}
}

var errShort = errors.New("packet cut short within its headers")

func parsePacket(link layers.LinkType, b []byte) (s Segment, ok bool, err error) {
	switch link {
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
	case layers.LinkTypeEthernet:
		if len(b) < 14 {
			return s, false, errShort
		}
		if t := binary.BigEndian.Uint16(b[12:]); t != 0x0800 && t != 0x86dd {
			return s, false, nil
		}
		b = b[14:]
	default:
		return s, false, fmt.Errorf("link type %v is not known", link)
	}
	if len(b) == 0 {
		return s, false, errShort
	}
	if b[0]>>4 == 6 {
		return parseIPv6(b)
	}
	return parseIPv4(b)
}

func parseIPv4(b []byte) (s Segment, ok bool, err error) {
	if len(b) < 20 {
		return s, false, errShort
	}
	if b[9] != 6 {
		return s, false, nil
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return s, false, errors.New("fragmented TCP")
	}
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // a super-packet longer than the field can say
		total = len(b)
	}
	if header < 20 || len(b) < header || total < header {
		return s, false, errShort
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	return parseTCP(src, dst, b[header:min(total, len(b))], total-header)
}

func parseIPv6(b []byte) (s Segment, ok bool, err error) {
	if len(b) < 40 {
		return s, false, errShort
	}
	if b[6] != 6 { // TCP behind extension headers does not occur here
		return s, false, nil
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 {
		length = len(b) - 40
	}
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	return parseTCP(src, dst, b[40:min(40+length, len(b))], length)
}

func parseTCP(src, dst netip.Addr, b []byte, length int) (s Segment, ok bool, err error) {
	if len(b) < 20 {
		return s, false, errShort
	}
	header := int(b[12]>>4) * 4
	if header < 20 || len(b) < header || length < header {
		return s, false, errShort
	}
	return Segment{
		Src:     netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)),
		Dst:     netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:])),
		Seq:     binary.BigEndian.Uint32(b[4:]),
		Ack:     binary.BigEndian.Uint32(b[8:]),
		Flags:   b[13],
		Options: b[20:header],
		Payload: b[header:],
		Length:  length - header,
	}, true, nil
}

// has tells whether all the flags are set.
func (s *Segment) has(flags uint8) bool { return s.Flags&flags == flags }
