package tcpcrypt

import (
	"errors"
	"io"
)

// Errors that end a connection. Each is distinct from io.EOF, and each makes the Conn abort its transport (RST) when it
// is met. They come wrapped with detail: compare with errors.Is.
var (
	// ErrTruncated says that the stream ended before a frame with FINp, or within a message: octets are missing.
	// It is also an io.ErrUnexpectedEOF. RFC 8548, Section 3.7.
	ErrTruncated error = truncated{}

	// ErrIntegrity says that a frame failed authentication. RFC 8548, Section 3.6.
	ErrIntegrity = errors.New("tcpcrypt: frame failed authentication: it was altered on its way or sealed with another key")

	// ErrMalformedFrame says that a frame is too short for its own fields. RFC 8548, Section 4.2.
	ErrMalformedFrame = errors.New("tcpcrypt: malformed frame")

	// ErrDataAfterFIN says that octets followed the frame with FINp. RFC 8548, Section 3.7.
	ErrDataAfterFIN = errors.New("tcpcrypt: data after the last frame of the stream")

	// ErrBadMagic says that the peer's stream does not begin with the magic number of its Init message.
	// RFC 8548, Section 4.3.
	ErrBadMagic = errors.New("tcpcrypt: peer's stream does not begin with a tcpcrypt Init message")

	// ErrMalformedInit says that a field of an Init message does not fit its message_len. RFC 8548, Section 4.1.
	ErrMalformedInit = errors.New("tcpcrypt: malformed Init message")

	// ErrInitTooLong says that message_len of an Init message exceeds MaxInitLen.
	ErrInitTooLong = errors.New("tcpcrypt: Init message too long")

	// ErrBadPublicKey says that the peer's public key failed validation: not on the curve, or of an order that forces
	// the shared secret to zero. RFC 8548, Section 5.
	ErrBadPublicKey = errors.New("tcpcrypt: peer's public key is invalid")

	// ErrCipherNotOffered says that Init2 selects a cipher that Init1 did not list. RFC 8548, Section 3.3.
	ErrCipherNotOffered = errors.New("tcpcrypt: peer selected a cipher that was not offered")

	// ErrNoCommonCipher says that Init1 lists no cipher which is configured here.
	ErrNoCommonCipher = errors.New("tcpcrypt: no cipher in common with the peer")

	// ErrRekeyOverflow says that the peer rekeyed further ahead than MaxUnanswered, or that a generation number ran out.
	ErrRekeyOverflow = errors.New("tcpcrypt: too many rekeys")

	// ErrPeerSilent says that the peer did not show in time that it is alive: see Liveness. Whoever is on the path can bring
	// this about, by keeping back what the peer sends. RFC 8548, Section 8.2.
	ErrPeerSilent = errors.New("tcpcrypt: peer does not answer")

	// ErrOffsetOverflow says that a direction reached 2^64 octets. RFC 8548, Section 3.6.
	ErrOffsetOverflow = errors.New("tcpcrypt: stream offset exhausted")
)

// Errors of use, which leave the connection as it is.
var (
	// ErrNoSession says that there is no session ID, because Handshake has not succeeded.
	ErrNoSession = errors.New("tcpcrypt: no session: the handshake is not complete")

	// ErrWriteClosed says that CloseWrite was called before a Write.
	ErrWriteClosed = errors.New("tcpcrypt: write after CloseWrite")

	// ErrRekeyPending says that a rekey initiated here has not been answered. RFC 8548, Section 3.8.
	ErrRekeyPending = errors.New("tcpcrypt: a rekey is already under way")

	// ErrPreparedUsed says that a Prepared, or an Exchange, was used before, or erased.
	ErrPreparedUsed = errors.New("tcpcrypt: the prepared key exchange was used before")

	// ErrTicketUsed says that a Ticket was used before, or was erased because it was not used in time. RFC 8548, Section 3.5.
	ErrTicketUsed = errors.New("tcpcrypt: the session ticket was used or has expired")

	// ErrConfig says that a Config cannot be used.
	ErrConfig = errors.New("tcpcrypt: bad configuration")
)

type truncated struct{}

func (truncated) Error() string { return "tcpcrypt: stream cut off before its end (no FINp)" }
func (truncated) Unwrap() error { return io.ErrUnexpectedEOF }
