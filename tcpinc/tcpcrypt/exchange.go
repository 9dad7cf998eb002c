package tcpcrypt

import (
	"fmt"
	"io"
	"slices"

	"innertun/tcpinc/eno"
)

// session is what a key exchange, or a Ticket in its place, results in: all keys of a connection come from it.
type session struct {
	secret secret   // ss[i]; ss[0] of a fresh key exchange
	nonce  []byte   // sn[i]; empty for a fresh key exchange
	role   eno.Role // this host's in the key exchange: it says which keys are whose. RFC 8548, Section 3.5
	cipher Cipher
}

// ways are the keys that this host seals and opens with.
func (s *session) ways() (ours, theirs way) { return ways(s.role) }

func ways(original eno.Role) (ours, theirs way) {
	if original == eno.RoleB {
		return wayBA, wayAB
	}
	return wayAB, wayBA
}

// offer is host A between Init1 and Init2. RFC 8548, Section 3.3.
type offer struct {
	tep     eno.TEP
	ciphers []Cipher
	nonce   [initNonceLen]byte
	pair    keyPair
	init1   []byte
}

// newOffer draws N_A, then a private key, from random and makes Init1.
func newOffer(tep eno.TEP, ciphers []Cipher, random io.Reader) (*offer, error) {
	o := &offer{tep: tep, ciphers: ciphers}
	var err error
	if o.nonce, o.pair, err = drawKeys(tep, random); err != nil {
		return nil, err
	}
	o.init1 = AppendInit1(nil, Init1{Ciphers: ciphers, Nonce: o.nonce, Public: o.pair.appendPublic(nil, nil)})
	return o, nil
}

// finish takes the whole Init2, its ignored octets included.
func (o *offer) finish(transcript, init2 []byte) (session, error) {
	m, _, err := ParseInit2(init2, o.tep)
	if err != nil {
		return session{}, err
	}
	if !slices.Contains(o.ciphers, m.Cipher) {
		return session{}, fmt.Errorf("%w: %v", ErrCipherNotOffered, m.Cipher)
	}
	es, err := o.pair.shared(m.Public)
	if err != nil {
		return session{}, err
	}
	defer clear(es)
	ss, err := extract(o.nonce, transcript, o.init1, init2, es)
	return session{secret: ss, role: eno.RoleA, cipher: m.Cipher}, err
}

// answer is host B: it takes the whole Init1, chooses the first of ciphers that was offered, draws N_B, then a private
// key, from random and makes Init2.
func answer(tep eno.TEP, ciphers []Cipher, random io.Reader, transcript, init1 []byte) ([]byte, session, error) {
	m, _, err := ParseInit1(init1, tep)
	if err != nil {
		return nil, session{}, err
	}
	i := slices.IndexFunc(ciphers, func(c Cipher) bool { return slices.Contains(m.Ciphers, c) })
	if i < 0 {
		return nil, session{}, fmt.Errorf("%w: offered %v, allowed %v", ErrNoCommonCipher, m.Ciphers, ciphers)
	}
	nonce, pair, err := drawKeys(tep, random)
	if err != nil {
		return nil, session{}, err
	}
	es, err := pair.shared(m.Public)
	if err != nil {
		return nil, session{}, err
	}
	defer clear(es)
	init2 := AppendInit2(nil, Init2{Cipher: ciphers[i], Nonce: nonce, Public: pair.appendPublic(nil, m.Public)})
	ss, err := extract(m.Nonce, transcript, init1, init2, es)
	return init2, session{secret: ss, role: eno.RoleB, cipher: ciphers[i]}, err
}

func drawKeys(tep eno.TEP, random io.Reader) (nonce [initNonceLen]byte, pair keyPair, err error) {
	scheme, err := agreementOf(tep)
	if err != nil {
		return nonce, nil, err
	}
	if err = draw(random, nonce[:]); err != nil {
		return nonce, nil, fmt.Errorf("tcpcrypt: drawing a nonce: %w", err)
	}
	if stock, ok := random.(pooled); ok {
		if pair = stock.take(tep); pair != nil {
			return nonce, pair, nil
		}
	}
	pair, err = scheme.generate(random)
	return nonce, pair, err
}

// draw fills b. It never fails with io.EOF, which would look like the end of a stream.
func draw(random io.Reader, b []byte) error {
	_, err := io.ReadFull(random, b)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
