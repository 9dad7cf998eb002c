package innerspace

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CloseCode says why a host ends a connection.
type CloseCode uint8

const (
	CloseUnspecified CloseCode = iota
	CloseAborted               // the application has reset its side
	CloseRefused               // the service behind the host refused, or cannot be reached
	CloseShutdown              // the host stops
	ClosePolicy                // a rule of the host forbids the connection
	CloseProtocol              // the peer broke a protocol
	CloseTimeout               // nothing came for too long
	CloseIdentity              // the peer did not prove who it is, or is the wrong one
	CloseResources             // the host is out of something
)

var closeNames = [...]string{"unspecified", "aborted", "refused", "shutdown", "policy", "protocol", "timeout", "identity", "resources"}

func (c CloseCode) String() string {
	if int(c) < len(closeNames) {
		return closeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// MaxCloseText is the longest text of a close reason in octets.
const MaxCloseText = MaxBody - 1

// CloseReason is why a host ends a connection. Codes that are not known are passed on as they are.
type CloseReason struct {
	Code CloseCode
	Text string // UTF-8 without control characters, at most MaxCloseText octets; may be empty
}

func (r CloseReason) String() string {
	if r.Text == "" {
		return r.Code.String()
	}
	return r.Code.String() + ": " + r.Text
}

// AppendClose appends the option. Of a text that is too long the end is cut off; what may not be in it becomes U+FFFD.
func AppendClose(dst []byte, r CloseReason) []byte {
	text := strings.Map(func(c rune) rune { // an ill-formed octet comes as U+FFFD already
		if !printable(c) {
			return utf8.RuneError
		}
		return c
	}, r.Text)
	if len(text) > MaxCloseText {
		n := MaxCloseText
		for !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	dst = append(appendExIDHeader(dst, ExIDClose, 1+len(text)), byte(r.Code))
	return append(dst, text...)
}

// ParseClose returns the reason and the octets that the option took. A text that is ill-formed, or has control characters,
// is ErrBody: it is going to be shown to someone. Other errors: ErrTruncated, ErrOptions, ErrNotOption.
func ParseClose(b []byte) (r CloseReason, n int, err error) {
	body, n, err := parseBody(b, ExIDClose)
	if err != nil {
		return CloseReason{}, 0, err
	}
	if len(body) == 0 {
		return CloseReason{}, 0, fmt.Errorf("%w: %v without a code", ErrBody, ExIDClose)
	}
	text := string(body[1:])
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !printable(c) }) {
		return CloseReason{}, 0, fmt.Errorf("%w: text of %v is not UTF-8 that can be shown", ErrBody, ExIDClose)
	}
	return CloseReason{Code: CloseCode(body[0]), Text: text}, n, nil
}

// printable reports whether a character may be shown on a terminal: neither a control nor one that changes the order of others.
func printable(c rune) bool { return unicode.IsGraphic(c) }
