package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"innertun/tcpinc/eno"
)

// Change is one difference between a packet as it was sent and as a router quoted it.
type Change struct {
	What string `json:"what"` // "sequence", "mss", "option 69 removed", ...
	Sent string `json:"sent"`
	Seen string `json:"seen"`
}

const optionMSS = 2

// Compare returns how a quote differs from the packet that was sent, as far as the quote goes. What routers do to every
// packet (time to live, checksum of the IP header) is left out, and so is the IPv4 identification, which has no meaning here.
// The checksum of TCP counts only where nothing else explains it: many NATs put back all of a quote but that.
func Compare(sent []byte, q Quote) []Change {
	h, tcp, err := parseIP(sent)
	if err != nil || len(tcp) < tcpHeader {
		return nil
	}
	var changes changes
	before := parts(h, tcp)
	after := parts(ip{from: q.From.Addr(), to: q.To.Addr(), class: q.Class, length: q.Length}, q.TCP)
	for i, part := range before {
		if i < len(after) && part != after[i] {
			changes.add(part.what, part.value, after[i].value)
		}
	}
	offset := int(tcp[12]>>4) * 4
	if len(q.TCP) > 12 {
		quoted := int(q.TCP[12]>>4) * 4
		if quoted >= tcpHeader && quoted <= len(q.TCP) {
			changes.options(tcp[tcpHeader:offset], q.TCP[tcpHeader:quoted])
		}
		changes.payload(tcp[offset:], q, quoted)
	} else if q.Length != len(tcp) {
		changes.add("length", fmt.Sprint(len(tcp)), fmt.Sprint(q.Length))
	}
	if len(changes) == 0 && len(q.TCP) >= 18 && !bytes.Equal(tcp[16:18], q.TCP[16:18]) {
		changes.add("checksum", fmt.Sprintf("%04x", tcp[16:18]), fmt.Sprintf("%04x", q.TCP[16:18]))
	}
	return changes
}

type changes []Change

func (c *changes) add(what, sent, seen string) { *c = append(*c, Change{what, sent, seen}) }

// part is a field of the headers.
type part struct{ what, value string }

// parts lists the fields that stand in the same place in every packet, as far as the octets go.
func parts(h ip, tcp []byte) []part {
	port := func(i int) uint16 { return binary.BigEndian.Uint16(tcp[i:]) }
	out := []part{
		{"source", netip.AddrPortFrom(h.from, port(0)).String()},
		{"destination", netip.AddrPortFrom(h.to, port(2)).String()},
		{"class", fmt.Sprintf("%#02x", h.class)},
		{"sequence", fmt.Sprint(binary.BigEndian.Uint32(tcp[4:]))},
	}
	if len(tcp) >= 16 {
		out = append(out,
			part{"acknowledgment", fmt.Sprint(binary.BigEndian.Uint32(tcp[8:]))},
			part{"flags", fmt.Sprintf("%#02x", tcp[13])},
			part{"window", fmt.Sprint(port(14))})
	}
	return out
}

// options compares two lists of options; their order, and padding, do not count.
func (c *changes) options(sent, seen []byte) {
	before, _ := optionsOf(sent)
	after, err := optionsOf(seen)
	if err != nil {
		c.add("options", fmt.Sprintf("%x", sent), fmt.Sprintf("%x", seen))
		return
	}
	for _, o := range before {
		switch i := find(after, o[0]); {
		case i < 0:
			c.add(fmt.Sprintf("option %d removed", o[0]), fmt.Sprintf("%x", o), "")
		case bytes.Equal(o, after[i]):
		case o[0] == optionMSS && len(o) == 4 && len(after[i]) == 4:
			c.add("mss", fmt.Sprint(binary.BigEndian.Uint16(o[2:])), fmt.Sprint(binary.BigEndian.Uint16(after[i][2:])))
		default:
			c.add(fmt.Sprintf("option %d changed", o[0]), fmt.Sprintf("%x", o), fmt.Sprintf("%x", after[i]))
		}
	}
	for _, o := range after {
		if find(before, o[0]) < 0 {
			c.add(fmt.Sprintf("option %d added", o[0]), "", fmt.Sprintf("%x", o))
		}
	}
}

// payload compares the data: its length by the quoted IP header, its octets as far as they are quoted.
func (c *changes) payload(sent []byte, q Quote, offset int) {
	if n := q.Length - offset; n != len(sent) {
		c.add("payload length", fmt.Sprint(len(sent)), fmt.Sprint(n))
		return
	}
	if offset < len(q.TCP) && !bytes.HasPrefix(sent, q.TCP[offset:]) {
		c.add("payload", fmt.Sprintf("%x", sent), fmt.Sprintf("%x", q.TCP[offset:]))
	}
}

func optionsOf(list []byte) (out [][]byte, err error) {
	it := eno.NewIterator(list)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		out = append(out, o)
	}
	return out, it.Err()
}

func find(options [][]byte, kind byte) int {
	for i, o := range options {
		if o[0] == kind {
			return i
		}
	}
	return -1
}
