package cell

import (
	"cmp"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"syscall"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// Outcome is what came of a cell, from good to bad.
type Outcome string

const (
	Encrypted Outcome = "encrypted"
	PlainTCP  Outcome = "plain"     // as the variant has it
	FellBack  Outcome = "fell-back" // plain, though the variant offers encryption; Reason says why
	Broke     Outcome = "broke"     // an error; Error says which
	Hung      Outcome = "hung"      // neither octets nor an error
	Garbled   Outcome = "garbled"   // octets arrived that were not sent
)

var outcomes = []Outcome{Encrypted, PlainTCP, FellBack, Broke, Hung, Garbled}

// worse orders outcomes.
func worse(a, b Outcome) int {
	return cmp.Compare(slices.Index(outcomes, a), slices.Index(outcomes, b))
}

// Result is what came of a cell. Times are by the cell's clock. The JSON names are for files of results.
type Result struct {
	Outcome Outcome `json:"outcome"` // the worst of its connections
	Reason  string  `json:"reason,omitempty"`
	Error   string  `json:"error,omitempty"`
	// Class is a word for an error: reset, timeout, refused, unreachable, required, closed, other.
	Class       string       `json:"class,omitempty"`
	Connections []Connection `json:"connections"`
	// Leaked: octets of the application were seen on the path although the client requires encryption.
	Leaked bool `json:"leaked"`
	// ServerHung: the client was done, one way or another, and the server's application still waited at the limit.
	ServerHung bool          `json:"server_hung"`
	NoRoom     NoRoom        `json:"no_room,omitzero"`
	Elements   []Element     `json:"elements"`
	Sides      [2]Seen       `json:"sides"` // the client's, the server's
	RTT        time.Duration `json:"rtt_ns"`
	Elapsed    time.Duration `json:"elapsed_ns"`
	Wall       time.Duration `json:"wall_ns"` // by the clock on the wall
}

// NoRoom counts the SYNs that the server answered and did not keep, for want of room.
type NoRoom struct {
	EchoCookies uint64 `json:"echo_cookies"` // upgraded ones: a SYN-ACK-U with an echo cookie
	Plain       uint64 `json:"plain"`        // answered as if the server spoke plain TCP only
	SYNCookies  uint64 `json:"syn_cookies"`  // by TCP's own cookies, most of the above among them
}

// Connection is one connection as the client's application saw it.
type Connection struct {
	Outcome   Outcome `json:"outcome"`
	Encrypted bool    `json:"encrypted"`
	TEP       string  `json:"tep,omitempty"`
	Resumed   bool    `json:"resumed"`
	Inner     bool    `json:"inner_space"`
	Early     bool    `json:"early_data"` // data in the SYN was accepted
	Cookie    bool    `json:"cookie"`     // the server kept nothing of its SYN: its SYN-ACK had an echo cookie
	Downgrade bool    `json:"downgrade"`  // the destination had more before
	Reason    string  `json:"reason,omitempty"`
	Error     string  `json:"error,omitempty"`
	Class     string  `json:"class,omitempty"`
	// From the first SYN that the client's tap saw of it; 0: never came to it.
	Opened     time.Duration `json:"opened_ns"`      // Dial returned
	FirstReply time.Duration `json:"first_reply_ns"` // the first octet of the first reply was read
	Completion time.Duration `json:"completion_ns"`  // the stream's end was read
	RoundTrips float64       `json:"round_trips"`    // FirstReply in RTTs of the path, as Cell has it
	Sent       int64         `json:"sent"`           // octets of the application
	Received   int64         `json:"received"`
}

// Element is one element of the path and how many packets it did something to; -1: it does not count.
type Element struct {
	Spec  string `json:"spec"`
	Acted int64  `json:"acted"`
}

// Seen is what passed the tap at one side.
type Seen struct {
	Sent     Packets `json:"sent"`
	Received Packets `json:"received"`
}

// Packets are what went one way.
type Packets struct {
	Packets int   `json:"packets"`
	Octets  int64 `json:"octets"` // of IP packets
	Data    int64 `json:"data"`   // of TCP payload, retransmissions included
	SYNData int   `json:"syn_data"`
	Resets  int   `json:"resets"`
	// Options of the first SYN or SYN-ACK, and of all other segments, each kind once.
	SYN   []Option `json:"syn,omitempty"`
	Later []Option `json:"later,omitempty"`
	// Inner options: of the last upgraded SYN or SYN-ACK, and those in the stream that are not the project's own.
	Prefix []Option `json:"prefix,omitempty"`
	Suffix []Option `json:"suffix,omitempty"`
	Stream []Option `json:"stream,omitempty"`
}

// Option is a TCP option; Data is its content in hexadecimal, of the first that was seen.
type Option struct {
	Kind uint8  `json:"kind"`
	Data string `json:"data,omitempty"`
}

// Has reports whether an option of the kind is there.
func Has(options []Option, kind uint8) bool {
	return slices.ContainsFunc(options, func(o Option) bool { return o.Kind == kind })
}

// look sums up what passed a tap one way.
func look(packets []lab.Captured, to lab.End) (seen Packets) {
	first := true
	for _, p := range packets {
		if p.To != to {
			continue
		}
		seen.Packets++
		seen.Octets += int64(len(p.Data))
		s, ok := lab.ParseSegment(p.Data)
		if !ok {
			continue
		}
		seen.Data += int64(len(s.Payload()))
		if s.Flags()&lab.RST != 0 {
			seen.Resets++
			continue
		}
		if !s.IsSYN() {
			seen.Later = addOptions(seen.Later, s)
			continue
		}
		seen.SYNData = max(seen.SYNData, len(s.Payload()))
		if inner, opening, err := innerspace.ParseSYN(s.Payload()); opening == innerspace.Upgraded && err == nil {
			seen.Prefix, seen.Suffix = innerOptions(inner.Prefix), innerOptions(inner.Suffix)
		}
		if first {
			first = false
			seen.SYN = addOptions(nil, s)
		}
	}
	return seen
}

// cookied looks for a SYN-ACK with an echo cookie among what has come to one end of a connection since then.
func cookied(packets []lab.Captured, local net.Addr, since time.Time) bool {
	for _, p := range packets {
		s, ok := lab.ParseSegment(p.Data)
		if !ok || p.To != lab.A || p.At.Before(since) || !s.IsSYN() || s.Destination.String() != local.String() {
			continue
		}
		inner, opening, err := innerspace.ParseSYN(s.Payload())
		if opening != innerspace.Upgraded || err != nil {
			continue
		}
		if _, has, err := innerspace.Message(inner.Suffix, innerspace.ExIDCookie); has && err == nil {
			return true
		}
	}
	return false
}

// innerOptions reads a list of inner options; padding is left out.
func innerOptions(list []byte) (all []Option) {
	it := innerspace.NewIterator(list)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		if o.Kind() != innerspace.KindNop {
			all = append(all, optionOf(o))
		}
	}
	return all
}

func optionOf(o innerspace.Option) Option { return Option{o.Kind(), hex.EncodeToString(o.Data())} }

func addOptions(options []Option, s lab.Segment) []Option {
	for kind, o := range s.EachOption() {
		if !Has(options, kind) {
			options = append(options, Option{kind, hex.EncodeToString(o[2:])})
		}
	}
	return options
}

// roundTrips is a time in round trips, to two decimals.
func roundTrips(d, rtt time.Duration) float64 {
	if rtt == 0 {
		return 0
	}
	return math.Round(100*float64(d)/float64(rtt)) / 100
}

// class puts an error into a word.
func class(err error) string {
	var required *tcpinc.RequiredError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errGarbled):
		return "garbled"
	case errors.As(err, &required):
		return "required"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, tcpinc.ErrNoAnswer):
		return "timeout"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return "unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return "other"
}

// Outcomes returns all outcomes, from good to bad.
func Outcomes() []Outcome { return slices.Clone(outcomes) }
