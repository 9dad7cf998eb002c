package tcpcrypt

import (
	"fmt"
	"io"
	"sync"

	"innertun/tcpinc/eno"
)

// Exchange is host A's side of a key exchange whose messages do not travel in the stream: see Prepared. It serves once and
// is not safe for concurrent use.
type Exchange struct{ offer *offer }

// NewExchange draws N_A, then a private key, from random. Error: ErrConfig, or that of random.
func NewExchange(tep eno.TEP, ciphers []Cipher, random io.Reader) (*Exchange, error) {
	if len(ciphers) < 1 || len(ciphers) > 255 {
		return nil, fmt.Errorf("%w: %d ciphers, 1 to 255", ErrConfig, len(ciphers))
	}
	o, err := newOffer(tep, ciphers, random)
	if err != nil {
		return nil, err
	}
	return &Exchange{o}, nil
}

// TEP is the one that the exchange is for.
func (x *Exchange) TEP() eno.TEP { return x.offer.tep }

// Init1 is the message to be sent. It must not be altered. RFC 8548, Section 4.1.
func (x *Exchange) Init1() []byte { return x.offer.init1 }

// Erased reports whether the private key is gone: Finish or Erase was called.
func (x *Exchange) Erased() bool { return x.offer.pair == nil }

// Erase forgets the private key, from which, and from what went over the wire, all later keys could be computed.
func (x *Exchange) Erase() {
	erasePair(x.offer.pair)
	x.offer.pair = nil
}

// Finish takes the whole of Init2 and erases the private key. Errors: ErrBadMagic, ErrInitTooLong, ErrMalformedInit, ErrTruncated, ErrBadPublicKey,
// ErrCipherNotOffered, ErrPreparedUsed the second time.
func (x *Exchange) Finish(transcript, init2 []byte) (*Prepared, error) {
	if x.Erased() {
		return nil, ErrPreparedUsed
	}
	defer x.Erase()
	s, err := x.offer.finish(transcript, init2)
	return prepare(s, err)
}

// AnswerExchange is host B's side: it takes the whole of Init1, chooses the first of ciphers that was offered, draws N_B,
// then a private key, from random, and returns Init2. Errors: those of Exchange.Finish, ErrNoCommonCipher, that of random.
func AnswerExchange(tep eno.TEP, ciphers []Cipher, random io.Reader, transcript, init1 []byte) (init2 []byte, p *Prepared, err error) {
	init2, s, err := answer(tep, ciphers, random, transcript, init1)
	p, err = prepare(s, err)
	return init2, p, err
}

// Prepared is what a key exchange outside the stream has come to. It serves one Conn, whose stream then begins with a frame,
// at offset 0. It is safe for concurrent use.
type Prepared struct {
	LogFirst bool // have the keys of the first message in the key log; set before SealFirst or OpenFirst

	mu       sync.Mutex
	session  session
	live     bool
	first    bool // the first message was sealed or opened
	firstLog earlyLog
}

func prepare(s session, err error) (*Prepared, error) {
	if err != nil {
		return nil, err
	}
	p := &Prepared{session: s, live: true}
	clear(s.secret[:])
	return p, nil
}

// Erase erases the secret, if it was not used.
func (p *Prepared) Erase() {
	if s, err := p.redeem(); err == nil {
		clear(s.secret[:])
		p.mu.Lock()
		p.firstLog.erase()
		p.mu.Unlock()
	}
}

// redeem hands out the session, once.
func (p *Prepared) redeem() (session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		return session{}, ErrPreparedUsed
	}
	s := p.session
	clear(p.session.secret[:])
	p.live = false
	return s, nil
}
