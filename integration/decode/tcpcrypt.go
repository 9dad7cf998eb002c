package decode

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// Constants of RFC 8548, Sections 4.3, 4.2.1 and 7.
const (
	init1Magic = 0x15101a0e
	init2Magic = 0x097105e0

	flagFINp = 0x01
	flagURGp = 0x02

	CipherAES128GCM        = 0x0001
	CipherAES256GCM        = 0x0002
	CipherChaCha20Poly1305 = 0x0010

	nonceLen = 32 // N_A_LEN and N_B_LEN
)

// Init1 is host A's key exchange message (RFC 8548, Section 4.1).
type Init1 struct {
	Length  int // octets of the whole message in the stream; 0: it was in the SYN-U
	Ciphers []uint16
	Nonce   []byte
	Public  []byte
	Ignored []byte // senders leave this empty
}

// Init2 is host B's.
type Init2 struct {
	Length  int // likewise
	Cipher  uint16
	Nonce   []byte
	Public  []byte
	Ignored []byte
}

func message(stream []byte, magic uint32) ([]byte, error) {
	if len(stream) < 8 {
		return nil, errors.New("stream ends within the first eight octets")
	}
	if got := binary.BigEndian.Uint32(stream); got != magic {
		return nil, fmt.Errorf("magic %#08x, want %#08x", got, magic)
	}
	n := binary.BigEndian.Uint32(stream[4:])
	if n < 9 || uint64(n) > uint64(len(stream)) {
		return nil, fmt.Errorf("message_len %d, with %d octets in the stream", n, len(stream))
	}
	return stream[:n], nil
}

// splitKey separates nonce, public key and what follows. The key's length depends on the TEP (Section 5).
func splitKey(b []byte, tep byte) (nonce, public, rest []byte, err error) {
	if len(b) < nonceLen {
		return nil, nil, nil, errors.New("no room for the nonce")
	}
	nonce, b = b[:nonceLen], b[nonceLen:]
	var n int
	switch tep {
	case 0x21, 0x22: // ECDHE-P256, ECDHE-P521: length-prefixed, compressed points
		want := map[byte]int{0x21: 33, 0x22: 67}[tep]
		// By the figure pubkey_len counts its own two octets; who reads the text above it alone leaves them out.
		if len(b) < 2 {
			return nil, nil, nil, errors.New("no room for pubkey_len")
		}
		if l := int(binary.BigEndian.Uint16(b)); l != want+2 && l != want {
			return nil, nil, nil, fmt.Errorf("pubkey_len is %d, not that of a compressed point of %d octets", l, want)
		}
		if b = b[2:]; len(b) < 1 || b[0] != 2 && b[0] != 3 {
			return nil, nil, nil, errors.New("public key is not in compressed format")
		}
		n = want
	case 0x23:
		n = 32
	case 0x24:
		n = 56
	default:
		return nil, nil, nil, fmt.Errorf("TEP %#02x is not one of tcpcrypt's", tep)
	}
	if len(b) < n {
		return nil, nil, nil, errors.New("no room for the public key")
	}
	return nonce, b[:n], b[n:], nil
}

// ParseInit1 parses the Init1 message at the start of host A's stream.
func ParseInit1(stream []byte, tep byte) (m Init1, err error) {
	b, err := message(stream, init1Magic)
	if err != nil {
		return m, fmt.Errorf("Init1: %w", err)
	}
	m.Length = len(b)
	k := int(b[8])
	b = b[9:]
	if len(b) < 2*k {
		return m, errors.New("Init1: no room for the ciphers")
	}
	for i := range k {
		m.Ciphers = append(m.Ciphers, binary.BigEndian.Uint16(b[2*i:]))
	}
	if m.Nonce, m.Public, m.Ignored, err = splitKey(b[2*k:], tep); err != nil {
		return m, fmt.Errorf("Init1: %w", err)
	}
	return m, nil
}

// ParseInit2 parses the Init2 message at the start of host B's stream.
func ParseInit2(stream []byte, tep byte) (m Init2, err error) {
	b, err := message(stream, init2Magic)
	if err != nil {
		return m, fmt.Errorf("Init2: %w", err)
	}
	if len(b) < 10 {
		return m, errors.New("Init2: no room for the cipher")
	}
	m.Length = len(b)
	m.Cipher = binary.BigEndian.Uint16(b[8:])
	if m.Nonce, m.Public, m.Ignored, err = splitKey(b[10:], tep); err != nil {
		return m, fmt.Errorf("Init2: %w", err)
	}
	return m, nil
}

func newAEAD(id uint16, key []byte) (cipher.AEAD, []byte, error) {
	want := map[uint16]int{CipherAES128GCM: 16, CipherAES256GCM: 32, CipherChaCha20Poly1305: 32}[id]
	if want == 0 {
		return nil, nil, fmt.Errorf("cipher %#04x is not known", id)
	}
	if len(key) != want+12 {
		return nil, nil, fmt.Errorf("traffic key of %d octets, cipher %#04x wants %d", len(key), id, want+12)
	}
	if id == CipherChaCha20Poly1305 {
		aead, err := chacha20poly1305.New(key[:want])
		return aead, key[want:], err
	}
	block, err := aes.NewCipher(key[:want])
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, key[want:], err
}

// Plain is what one side's frames contain.
type Plain struct {
	Data      []byte
	FINp      bool // the last frame has FINp set
	Frames    int
	Rekeys    int // frames with rekey = 1
	Truncated int // octets of an incomplete frame at the end of the stream
	Largest   int // octets of the largest frame, header included

	Units int           // of Inner Space
	Inner []InnerOption // nil: there is no Inner Space
}

// openFrames decrypts the frames that begin at an offset of a stream. keys holds one traffic key a generation.
func openFrames(stream []byte, offset int, keys [][]byte, id uint16) (p Plain, err error) {
	generation := 0
	aead, nr, err := newAEAD(id, keys[0])
	if err != nil {
		return p, err
	}
	for len(stream)-offset > 0 {
		rest := stream[offset:]
		if len(rest) < 3 || len(rest) < 3+int(binary.BigEndian.Uint16(rest[1:])) {
			p.Truncated = len(rest)
			return p, nil
		}
		if p.FINp {
			return p, fmt.Errorf("octet %d: a frame after the one with FINp", offset)
		}
		end := 3 + int(binary.BigEndian.Uint16(rest[1:]))
		if rest[0]&^1 != 0 {
			return p, fmt.Errorf("octet %d: reserved bits set in control %#02x", offset, rest[0])
		}
		if rest[0]&1 != 0 {
			if generation++; generation >= len(keys) {
				return p, fmt.Errorf("octet %d: no keys for generation %d", offset, generation)
			}
			p.Rekeys++
			if aead, nr, err = newAEAD(id, keys[generation]); err != nil {
				return p, err
			}
		}
		var frameID [12]byte
		binary.BigEndian.PutUint64(frameID[4:], uint64(offset))
		for i := range frameID {
			frameID[i] ^= nr[i]
		}
		plain, err := aead.Open(nil, frameID[:], rest[3:end], rest[:3])
		if err != nil {
			return p, fmt.Errorf("octet %d: frame %d of %d octets, generation %d: %w", offset, p.Frames, end, generation, err)
		}
		if err := p.take(plain); err != nil {
			return p, fmt.Errorf("octet %d: %w", offset, err)
		}
		p.Frames++
		p.Largest = max(p.Largest, end)
		offset += end
	}
	return p, nil
}

// take appends the data of a frame's plaintext (Section 4.2.1).
func (p *Plain) take(plain []byte) error {
	if len(plain) < 1 {
		return errors.New("plaintext without flags")
	}
	flags, data := plain[0], plain[1:]
	if flags&^(flagFINp|flagURGp) != 0 {
		return fmt.Errorf("reserved bits set in flags %#02x", flags)
	}
	if flags&flagURGp != 0 {
		if len(data) < 2 {
			return errors.New("URGp without the urgent field")
		}
		data = data[2:]
	}
	p.Data = append(p.Data, data...)
	p.FINp = flags&flagFINp != 0
	return nil
}

// Session is a decrypted connection.
type Session struct {
	Negotiation        *Negotiation
	Keys               Keys // of generation 0
	Init1              Init1
	Init2              Init2
	Resumed            bool // no Init messages: keys came from an earlier session
	ResumeA, ResumeB   Resumption
	Reversed           bool // the passive opener was host A of the fresh exchange
	AtoB, BtoA         Plain
	StreamAB, StreamBA *Stream // without the data of the SYNs
	InnerSpace         bool
	Echoed             int    // octets that the unit with an echo cookie takes at the beginning of StreamAB
	EarlyPayload       int    // octets of early data in the SYN-U, sealed
	Early              []byte // what was in it, if B has accepted it; AtoB.Data begins with it

	// Proof is what host B says of itself in the SYN-ACK-U, sealed there; nil: nothing.
	Proof []byte

	active netip.AddrPort
}

// Decrypt checks and decrypts a flow with the keys of a key log. Everything on the wire that RFC 8547 or RFC 8548
// does not allow is an error.
func (f *Flow) Decrypt(log []Keys) (*Session, error) {
	s := &Session{Negotiation: f.Negotiate(), active: f.A}
	if v := s.Negotiation.Violations; len(v) > 0 {
		return s, fmt.Errorf("TCP-ENO: %d violations, first: %s", len(v), v[0])
	}
	if !s.Negotiation.Enabled {
		return s, errors.New("encryption was not enabled by TCP-ENO")
	}
	var err error
	if s.StreamAB, err = f.Reassemble(AtoB); err != nil {
		return s, err
	}
	if s.StreamBA, err = f.Reassemble(BtoA); err != nil {
		return s, err
	}
	s.StreamAB, s.StreamBA = s.StreamAB.afterSYN(), s.StreamBA.afterSYN()
	if err = s.readEcho(); err != nil {
		return s, err
	}
	s.Resumed = s.Negotiation.TEPByte&0x80 != 0
	if s.Resumed {
		err = s.readResumptions()
	} else {
		err = s.readInits()
	}
	if err != nil {
		return s, err
	}
	for _, session := range sessionsOf(log, f) {
		s.Keys = session[0]
		if err = s.open(session); err == nil {
			return s, errors.Join(s.openEarly(log), s.openProof(log))
		}
	}
	if err == nil {
		err = fmt.Errorf("no keys for %v>%v in the key log", f.A, f.B)
	}
	return s, err
}

func (s *Session) readInits() (err error) {
	tep := s.Negotiation.TEP
	if done, err := s.readUpgradedInits(); done || err != nil {
		return err
	}
	if s.Init1, err = ParseInit1(s.StreamAB.Data[s.Echoed:], tep); err != nil {
		return err
	}
	if s.Init2, err = ParseInit2(s.StreamBA.Data, tep); err != nil {
		return err
	}
	if err := s.checkInits(); err != nil {
		return err
	}
	// Section 3.3: the segment with the last octet has PSH.
	if !s.StreamAB.pushed(s.Echoed + s.Init1.Length) {
		return errors.New("the segment with the end of Init1 has no PSH")
	}
	if !s.StreamBA.pushed(s.Init2.Length) {
		return errors.New("the segment with the end of Init2 has no PSH")
	}
	return nil
}

func (s *Session) checkInits() error {
	if len(s.Init1.Ignored) > 0 || len(s.Init2.Ignored) > 0 {
		return errors.New("an Init message does not end with its public key")
	}
	if !slices.Contains(s.Init1.Ciphers, s.Init2.Cipher) {
		return fmt.Errorf("host B chose cipher %#04x, A offered %#04x", s.Init2.Cipher, s.Init1.Ciphers)
	}
	return nil
}

// readUpgradedInits reads the messages from the SYN-U and the SYN-ACK-U. If the latter has none, whatever there was in the
// SYN-U is void, and the exchange is in the stream.
func (s *Session) readUpgradedInits() (done bool, err error) {
	n := s.Negotiation
	if n.UpgradedA == nil || n.UpgradedB == nil {
		return false, nil
	}
	init2, err := n.UpgradedB.init()
	if init2 == nil || err != nil {
		return false, err
	}
	init1, err := n.UpgradedA.init()
	if err != nil {
		return false, err
	}
	if last := n.SubsA[len(n.SubsA)-1].TEP(); init1 == nil || last != n.TEP {
		return false, fmt.Errorf("Init2 in the SYN-ACK-U, but Init1 is missing or was for TEP %#02x and not %#02x", last, n.TEP)
	}
	if s.Init1, err = ParseInit1(init1, n.TEP); err != nil {
		return false, err
	}
	if s.Init2, err = ParseInit2(init2, n.TEP); err != nil {
		return false, err
	}
	if s.Init1.Length != len(init1) || s.Init2.Length != len(init2) {
		return false, errors.New("octets after a message of the key exchange in a SYN")
	}
	s.Init1.Length, s.Init2.Length = 0, 0
	return true, s.checkInits()
}

// Resumption is what a host has in its suboption to resume a session (RFC 8548, Section 3.5).
type Resumption struct{ Half, Nonce []byte }

const (
	resumeHalf  = 9
	resumeNonce = 8 // at most
)

// readResumptions checks that both hosts have named a session, each by a half of its own.
func (s *Session) readResumptions() error {
	n := s.Negotiation
	for _, h := range []struct {
		name string
		subs []Suboption
		to   *Resumption
	}{{"A", n.SubsA, &s.ResumeA}, {"B", n.SubsB, &s.ResumeB}} {
		var data []byte
		for _, sub := range h.subs {
			if sub.TEP() == n.TEP && sub.Initial&0x80 != 0 {
				data = sub.Data
			}
		}
		if len(data) < resumeHalf || len(data) > resumeHalf+resumeNonce {
			return fmt.Errorf("session resumed with %d octets from host %s, not %d to %d", len(data), h.name, resumeHalf, resumeHalf+resumeNonce)
		}
		*h.to = Resumption{Half: data[:resumeHalf], Nonce: data[resumeHalf:]}
	}
	if bytes.Equal(s.ResumeA.Half, s.ResumeB.Half) {
		return errors.New("both hosts sent the same half of the resumption identifier")
	}
	return nil
}

// sessionsOf returns the keys logged for the flow's addresses, one slice a session, by generation. The log names as host A
// who was so when the keys were exchanged: in a resumed session that may be the passive opener.
func sessionsOf(log []Keys, f *Flow) (sessions [][]Keys) {
	index := make(map[string]int)
	for _, k := range log {
		if k.Early || k.Proof {
			continue
		}
		if (k.A != f.A || k.B != f.B) && (k.A != f.B || k.B != f.A) {
			continue
		}
		i, ok := index[string(k.SessionID)]
		if !ok {
			i = len(sessions)
			index[string(k.SessionID)] = i
			sessions = append(sessions, nil)
		}
		if int(k.Generation) == len(sessions[i]) {
			sessions[i] = append(sessions[i], k)
		}
	}
	return slices.DeleteFunc(sessions, func(s []Keys) bool { return len(s) == 0 })
}

func (s *Session) open(session []Keys) error {
	first := session[0]
	if len(first.SessionID) != 33 || first.SessionID[0] != s.Negotiation.TEPByte {
		return fmt.Errorf("session id % x does not begin with the TEP byte %#02x or has not 33 octets",
			first.SessionID, s.Negotiation.TEPByte)
	}
	if !s.Resumed && first.Cipher != s.Init2.Cipher {
		return fmt.Errorf("key log says cipher %#04x, Init2 says %#04x", first.Cipher, s.Init2.Cipher)
	}
	var ab, ba [][]byte
	for _, k := range session {
		ab, ba = append(ab, k.AB), append(ba, k.BA)
	}
	// Section 3.5: keys go by the roles of the fresh exchange, which may have been the other way round.
	if s.Reversed = first.A != s.active; s.Reversed {
		if !s.Resumed {
			return fmt.Errorf("key log has %v as host A of a fresh session that %v has opened", first.A, s.active)
		}
		ab, ba = ba, ab
	}
	return s.openBoth(ab, ba)
}

func (s *Session) openBoth(ab, ba [][]byte) (err error) {
	if s.AtoB, err = openFrames(s.StreamAB.Data, s.Echoed+s.Init1.Length, ab, s.Keys.Cipher); err != nil {
		return fmt.Errorf("from A to B: %w", err)
	}
	if s.BtoA, err = openFrames(s.StreamBA.Data, s.Init2.Length, ba, s.Keys.Cipher); err != nil {
		return fmt.Errorf("from B to A: %w", err)
	}
	n := s.Negotiation
	s.InnerSpace = n.UpgradedB != nil || n.Marked
	if s.Resumed && !s.InnerSpace {
		// There was no room for the mark: the session stands for it. A stream that is no chain of units from its first octet
		// to the last is none by chance either.
		ab, ba := s.AtoB, s.BtoA
		if ab.unpack() == nil && ba.unpack() == nil && ab.Units+ba.Units > 0 {
			s.AtoB, s.BtoA, s.InnerSpace = ab, ba, true
		}
		return nil
	}
	if !s.InnerSpace {
		return nil
	}
	return errors.Join(s.AtoB.unpack(), s.BtoA.unpack())
}

// Clean tells whether both directions ended as RFC 8548, Section 3.7 wants a clean end: FINp on the last frame and
// then FIN, no reset.
func (s *Session) Clean() error {
	for _, d := range []struct {
		name   string
		plain  Plain
		stream *Stream
	}{{"A to B", s.AtoB, s.StreamAB}, {"B to A", s.BtoA, s.StreamBA}} {
		switch {
		case d.plain.Truncated > 0:
			return fmt.Errorf("%s: stream ends within a frame", d.name)
		case !d.plain.FINp:
			return fmt.Errorf("%s: no frame with FINp", d.name)
		case !d.stream.FIN:
			return fmt.Errorf("%s: no FIN after the last frame", d.name)
		}
	}
	return nil
}
