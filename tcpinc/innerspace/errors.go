package innerspace

import (
	"errors"
	"io"
)

// What can be wrong with what a peer sends. They come wrapped with detail: compare with errors.Is. In a stream each of
// them is for good: where the next unit begins is no longer known.
var (
	// ErrUnit: a unit's header has a Len that is not 1.
	ErrUnit = errors.New("innerspace: not a unit: Len is not 1")

	// ErrOptions: options that do not parse as a list of TCP options. RFC 9293, Section 3.1.
	ErrOptions = errors.New("innerspace: malformed options")

	// ErrBody: an option of the registry whose contents are not as its format has them.
	ErrBody = errors.New("innerspace: malformed contents of an option")

	// ErrSequence: a SYN has a message of options twice, or without its end.
	ErrSequence = errors.New("innerspace: message in options twice or without its end")

	// ErrMessageTooLong: a message spread over several options is longer than its limit.
	ErrMessageTooLong = errors.New("innerspace: message in options too long")

	// ErrTruncated: octets are missing at the end. It is also an io.ErrUnexpectedEOF.
	ErrTruncated error = truncated{}
)

// Errors of use.
var (
	// ErrNotOption: the octets at the front are an option, but not the one that was asked for.
	ErrNotOption = errors.New("innerspace: not this option")

	// ErrEncode: what was given has no encoding; the text says why.
	ErrEncode = errors.New("innerspace: cannot be encoded")

	// ErrQueueFull: more options wait to be sent than the limit allows. They leave as soon as the stream below takes
	// data again.
	ErrQueueFull = errors.New("innerspace: too many options wait to be sent")
)

type truncated struct{}

func (truncated) Error() string { return "innerspace: cut off before its end" }
func (truncated) Unwrap() error { return io.ErrUnexpectedEOF }
