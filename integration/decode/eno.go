package decode

import (
	"bytes"
	"errors"
	"fmt"
)

// TCP-ENO (RFC 8547): the option's kind, the bits of the global suboption, and this project's experimental mark,
// which is listed among the TEPs but never negotiated.
const (
	KindENO = 69

	bitB     = 0x01
	bitsZ    = 0x1c
	markTEP  = 0x20
	firstTEP = 0x20
)

// Suboption is one suboption of an SYN-form ENO option (RFC 8547, Section 4.1).
type Suboption struct {
	Initial byte   // the initial suboption byte: v and glt
	Data    []byte // with v = 1
	Length  bool   // a length byte stood before it
}

// TEP returns the identifier without the v bit, or 0 for a global suboption.
func (s Suboption) TEP() byte {
	if glt := s.Initial & 0x7f; glt >= firstTEP {
		return glt
	}
	return 0
}

// options returns the contents, kind and length included, of all options of a kind.
func options(field []byte, kind byte) (found [][]byte, err error) {
	for len(field) > 0 {
		switch field[0] {
		case 0:
			return found, nil
		case 1:
			field = field[1:]
			continue
		}
		if len(field) < 2 || field[1] < 2 || int(field[1]) > len(field) {
			return nil, errors.New("TCP option with a bad length")
		}
		if field[0] == kind {
			found = append(found, field[:field[1]])
		}
		field = field[field[1]:]
	}
	return found, nil
}

// ENO returns the ENO options of a segment, each with its kind and length bytes.
func (s *Segment) ENO() ([][]byte, error) { return options(s.Options, KindENO) }

// ParseSYNForm takes a whole ENO option, with kind and length, apart (RFC 8547, Sections 4.1 and 4.4).
func ParseSYNForm(option []byte) ([]Suboption, error) {
	if len(option) < 2 || option[0] != KindENO || int(option[1]) != len(option) {
		return nil, errors.New("not an ENO option")
	}
	var subs []Suboption
	for b := option[2:]; len(b) > 0; {
		switch initial := b[0]; {
		case initial < 0x80: // global suboption or TEP without data
			subs = append(subs, Suboption{Initial: initial})
			b = b[1:]
		case initial >= 0xa0: // TEP whose data extends to the end of the option
			subs = append(subs, Suboption{Initial: initial, Data: b[1:]})
			b = nil
		default: // length byte
			n := int(initial&0x1f) + 1
			if len(b) < 2 || b[1] < 0xa0 {
				return nil, fmt.Errorf("length byte %#02x is not followed by a TEP identifier with v = 1", initial)
			}
			if len(b) < 2+n {
				return nil, fmt.Errorf("length byte %#02x points beyond the option", initial)
			}
			subs = append(subs, Suboption{Initial: b[1], Data: b[2 : 2+n], Length: true})
			b = b[2+n:]
		}
	}
	return subs, nil
}

// Negotiation is what the handshake of a flow shows of TCP-ENO.
type Negotiation struct {
	OptionA, OptionB []byte // SYN-form options, kind and length included; nil if there was none
	SubsA, SubsB     []Suboption
	TEP              byte // negotiated (RFC 8547, Section 4.5), or 0
	TEPByte          byte // as host B sent it, with v
	Enabled          bool // encryption is on for both: options in SYN, SYN-ACK and the third segment
	// UpgradedA and UpgradedB are the data of a SYN-U and of the SYN-ACK-U that answers it; nil: they are ordinary ones.
	UpgradedA, UpgradedB *Upgraded
	// Cookies are the echo cookies of the SYN-ACK-U, one more for each repetition: a server that keeps no state bakes anew.
	Cookies [][]byte
	Marked  bool // both options say by the mark that the host speaks Inner Space
	// Violations of RFC 8547, Sections 4.1 to 4.7, in words.
	Violations []string
}

func (n *Negotiation) violate(s *Segment, format string, args ...any) {
	n.Violations = append(n.Violations, fmt.Sprintf("%v: ", s)+fmt.Sprintf(format, args...))
}

// Negotiate follows the handshake of a flow, as seen between the two hosts. No middlebox must have changed options
// before or after the place of the capture for the violations to be the hosts' own.
func (f *Flow) Negotiate() *Negotiation {
	n := new(Negotiation)
	c := checker{f: f, n: n}
	for _, s := range f.Segments {
		enos, err := s.ENO()
		if err != nil {
			n.violate(s, "%v", err)
			continue
		}
		switch {
		case s.has(RST):
			if len(enos) > 0 && !s.has(SYN) && !n.Enabled && n.TEP == 0 {
				n.violate(s, "RST carries ENO on a connection without it")
			}
		case s.has(SYN | ACK):
			c.synAck(s, enos)
		case s.has(SYN):
			c.syn(s, enos)
		case f.Direction(s) == AtoB:
			c.fromA(s, enos)
		default:
			c.fromB(s, enos)
		}
	}
	return n
}

type checker struct {
	f *Flow
	n *Negotiation

	seenSYN, seenSYNACK  bool
	withdrawn            bool   // A has left ENO out of a repeated SYN
	declined             bool   // a SYN-U was answered as an ordinary SYN
	isnA, isnB           uint32 // initial sequence numbers
	synU, synAckU        []byte // data of the upgraded ones
	nonSYNFromA          bool
	nonSYNFromB          bool
	aHasSeenB, bHasSeenA bool // proven by an acknowledgment of data
}

// upgraded returns the data of an upgraded SYN or SYN-ACK, and the ENO options in it.
func (c *checker) upgraded(s *Segment, outer [][]byte) (*Upgraded, [][]byte) {
	u, err := ParseUpgraded(s.Payload)
	if err != nil {
		c.n.violate(s, "%v", err)
		return nil, outer
	}
	if u == nil {
		return nil, outer
	}
	if len(outer) > 0 {
		c.n.violate(s, "ENO in the header of an upgraded segment")
	}
	return u, u.eno()
}

func (c *checker) syn(s *Segment, enos [][]byte) {
	u, enos := c.upgraded(s, enos)
	switch {
	case u != nil && !c.seenSYN:
		c.n.UpgradedA, c.synU = u, s.Payload
	case u != nil && !bytes.Equal(s.Payload, c.synU):
		c.n.violate(s, "the data of a repeated SYN-U is not that of the first")
	case u == nil && c.synU != nil:
		c.n.violate(s, "a SYN-U is repeated as an ordinary SYN")
	case u == nil && s.Length > 0:
		c.n.violate(s, "a SYN with ENO or before it carries %d octets of data", s.Length)
	}
	if len(enos) > 1 {
		c.n.violate(s, "%d ENO options in a SYN", len(enos))
		return
	}
	if !c.seenSYN {
		c.seenSYN, c.isnA = true, s.Seq
		if len(enos) == 1 {
			c.n.OptionA = enos[0]
			c.n.SubsA = c.synForm(s, enos[0], false)
		}
		return
	}
	switch {
	case len(enos) == 0:
		c.withdrawn = c.n.OptionA != nil
	case c.withdrawn:
		c.n.violate(s, "ENO is back in a repeated SYN after it had been left out")
	case string(enos[0]) != string(c.n.OptionA):
		c.n.violate(s, "ENO option changed in a repeated SYN: % x, was % x", enos[0], c.n.OptionA)
	}
}

func (c *checker) synAck(s *Segment, enos [][]byte) {
	u, enos := c.upgraded(s, enos)
	switch {
	case u != nil && c.synU == nil:
		c.n.violate(s, "a SYN-ACK-U answers an ordinary SYN")
	case c.synAckU != nil && u != nil && c.n.Cookies != nil && c.sameButCookie(u):
		c.n.Cookies = append(c.n.Cookies, u.cookie())
	case c.synAckU != nil && !bytes.Equal(s.Payload, c.synAckU):
		c.n.violate(s, "the data of a repeated SYN-ACK-U is not that of the first")
	case u != nil && !c.seenSYNACK:
		c.n.UpgradedB, c.synAckU = u, s.Payload
		if cookie := u.cookie(); cookie != nil {
			c.n.Cookies = [][]byte{cookie}
			if len(cookie) < 1 || len(cookie) > maxCookie {
				c.n.violate(s, "an echo cookie of %d octets", len(cookie))
			}
		}
		if int(s.Ack-c.isnA) != 1+len(c.synU) {
			c.n.violate(s, "a SYN-ACK-U does not acknowledge the data of the SYN-U")
		}
	case u == nil && c.synU != nil:
		c.declined, c.seenSYNACK, c.isnB = true, true, s.Seq
		return
	case u == nil && s.Length > 0:
		c.n.violate(s, "a SYN-ACK carries %d octets of data", s.Length)
	}
	if len(enos) > 1 {
		c.n.violate(s, "%d ENO options in a SYN-ACK", len(enos))
		return
	}
	if len(enos) == 1 && c.n.OptionA == nil {
		c.n.violate(s, "SYN-ACK carries ENO, the SYN did not")
	}
	if c.seenSYNACK {
		switch {
		case len(enos) == 0 && c.n.OptionB != nil:
			c.n.violate(s, "ENO option missing from a repeated SYN-ACK")
		case len(enos) == 1 && string(enos[0]) != string(c.n.OptionB):
			c.n.violate(s, "ENO option changed in a repeated SYN-ACK: % x, was % x", enos[0], c.n.OptionB)
		}
		return
	}
	c.seenSYNACK, c.isnB = true, s.Seq
	if len(enos) == 1 {
		c.n.OptionB = enos[0]
		c.n.SubsB = c.synForm(s, enos[0], true)
		c.choose(s)
	}
}

// synForm checks what Sections 4.1 to 4.4 ask of a sender.
func (c *checker) synForm(s *Segment, option []byte, passive bool) []Suboption {
	subs, err := ParseSYNForm(option)
	if err != nil {
		c.n.violate(s, "ill-formed ENO option: %v", err)
		return nil
	}
	globals, b, seen := 0, byte(0), make(map[byte]bool)
	for _, sub := range subs {
		if tep := sub.TEP(); tep != 0 {
			if seen[tep] {
				c.n.violate(s, "TEP %#02x listed twice", tep)
			}
			seen[tep] = true
			continue
		}
		globals++
		if globals == 1 {
			b = sub.Initial & bitB
		}
		if sub.Initial&bitsZ != 0 {
			c.n.violate(s, "reserved bits set in global suboption %#02x", sub.Initial)
		}
	}
	if globals > 1 {
		c.n.violate(s, "%d global suboptions", globals)
	}
	if passive && (globals == 0 || b == 0) {
		c.n.violate(s, "the passive opener's option has no global suboption with b = 1")
	}
	if !passive && b != 0 {
		c.n.violate(s, "the active opener's option has b = 1")
	}
	return subs
}

// choose finds the negotiated TEP (Section 4.5): the last valid one in host B's option.
func (c *checker) choose(s *Segment) {
	offered, resumable := make(map[byte]bool), make(map[byte]bool)
	c.n.Marked = marked(c.n.SubsA) && marked(c.n.SubsB)
	for _, sub := range c.n.SubsA {
		offered[sub.TEP()] = true
		resumable[sub.TEP()] = sub.Initial&0x80 != 0
	}
	teps := 0
	for _, sub := range c.n.SubsB {
		tep := sub.TEP()
		if tep == 0 || tep == markTEP {
			continue
		}
		teps++
		if !offered[tep] {
			c.n.violate(s, "host B answers with TEP %#02x, which A did not offer", tep)
			continue
		}
		if sub.Initial&0x80 != 0 && !resumable[tep] { // RFC 8548, Section 3.5
			c.n.violate(s, "host B resumes a session of TEP %#02x, which A did not offer", tep)
		}
		c.n.TEP, c.n.TEPByte = tep, sub.Initial
	}
	if teps != 1 {
		c.n.violate(s, "%d TEPs in a SYN-ACK, one is wanted", teps)
	}
}

// marked tells whether a host's option lists the mark of Inner Space, which comes first among the TEPs.
func marked(subs []Suboption) bool {
	for _, sub := range subs {
		if sub.TEP() != 0 {
			return sub.TEP() == markTEP && string(sub.Data) == "IS"
		}
	}
	return false
}

func (c *checker) nonSYNForm(s *Segment, enos [][]byte) {
	for _, e := range enos {
		if len(e) != 2 {
			c.n.violate(s, "non-SYN-form ENO option with contents: % x", e)
		}
	}
}

func (c *checker) fromA(s *Segment, enos [][]byte) {
	c.nonSYNForm(s, enos)
	if c.declined {
		c.n.violate(s, "host A goes on although its SYN-U was answered as an ordinary SYN")
	}
	c.aHasSeenB = c.aHasSeenB || c.nonSYNFromB && int32(s.Ack-c.isnB) > 1
	switch {
	case c.synU != nil:
		if len(enos) > 0 {
			c.n.violate(s, "ENO in the header of an upgraded connection")
		}
	case c.n.TEP == 0 || c.withdrawn && !c.nonSYNFromA && len(enos) == 0:
		if len(enos) > 0 {
			c.n.violate(s, "ENO in a segment after the negotiation failed")
		}
	case !c.nonSYNFromB && len(enos) == 0:
		c.n.violate(s, "no ENO, although host A cannot have received a non-SYN segment")
	case c.aHasSeenB && len(enos) > 0:
		c.n.violate(s, "ENO in a segment after host A has received a non-SYN segment")
	}
	if !c.nonSYNFromA {
		c.nonSYNFromA = true
		c.n.Enabled = c.n.TEP != 0 && (len(enos) > 0 || c.synAckU != nil)
	}
}

func (c *checker) fromB(s *Segment, enos [][]byte) {
	c.nonSYNForm(s, enos)
	c.nonSYNFromB = true
	c.bHasSeenA = c.bHasSeenA || c.nonSYNFromA && int32(s.Ack-c.isnA) > 1
	switch {
	case c.n.TEP == 0 || c.synAckU != nil:
		if len(enos) > 0 {
			c.n.violate(s, "ENO in a segment after the negotiation failed, or on an upgraded connection")
		}
	case !c.nonSYNFromA && len(enos) == 0:
		c.n.violate(s, "no ENO, although host B cannot have received a non-SYN segment")
	case c.bHasSeenA && len(enos) > 0:
		c.n.violate(s, "ENO in a segment after host B has received a non-SYN segment")
	}
}
