package lab

import (
	"bytes"
	"time"
)

// Filter is a box that looks at the first data of a connection's client, and blocks the connection, from the segment on
// that offends it, for what it finds there. After that, a connection with the same addresses and destination port is
// blocked too for a time, if Residual is set.
type Filter struct {
	cfg      FilterConfig
	flows    flows[*inspected]
	residual flows[struct{}]
	acted
}

// FilterConfig says what offends a Filter.
type FilterConfig struct {
	Offends  func(first []byte) bool // BlocksCiphertext, or Unless(protocols)
	Answer   Answer
	Residual time.Duration
}

type inspected struct {
	client  End // towards whom the client sends: the server's side
	done    bool
	blocked bool
}

// NewFilter returns a filter.
func NewFilter(cfg FilterConfig) *Filter {
	return &Filter{cfg: cfg, residual: flows[struct{}]{timeout: max(cfg.Residual, 1)}}
}

// Packet implements Element.
func (e *Filter) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok {
		at.Send(p)
		return
	}
	key, now := t.flow(p.To), at.Now()
	c, known := e.flows.get(key, now)
	if t.flags&(SYN|ACK) == SYN || !known {
		c = &inspected{client: p.To}
		if t.flags&ACK != 0 && t.flags&SYN != 0 {
			c.client = p.To.Other()
		}
		_, c.blocked = e.residual.get(withoutClientPort(key, c.client), now)
		e.flows.put(key, c, now)
	}
	if !c.done && p.To == c.client && len(t.payload) > 0 {
		c.done = true
		if e.cfg.Offends(t.payload) {
			c.blocked = true
			if e.cfg.Residual > 0 {
				e.residual.put(withoutClientPort(key, c.client), struct{}{}, now)
			}
		}
	}
	if !c.blocked {
		at.Send(p)
		return
	}
	e.act()
	if t.flags&RST == 0 {
		e.cfg.Answer.do(p, t, at)
	}
}

// withoutClientPort is what a residual block goes by.
func withoutClientPort(f flow, towards End) flow {
	client := &f.a
	if towards == A {
		client = &f.b
	}
	*client = portless(*client)
	return f
}

// BlocksCiphertext reports whether the first data of a connection looks like noise, by the rules that M. Wu et al. found
// the Great Firewall of China to follow ("How the Great Firewall of China detects and blocks fully encrypted traffic",
// USENIX Security 2023): 3.4 to 4.6 bits set to an octet on average, and none of the excuses: it begins with six printable
// octets, more than half of it is printable, more than 20 printable octets stand in a row, or it looks like TLS or HTTP.
func BlocksCiphertext(first []byte) bool {
	mean := float64(onesIn(first)) / float64(len(first))
	if mean <= 3.4 || mean >= 4.6 {
		return false
	}
	count, run, longest := 0, 0, 0
	for _, b := range first {
		run++
		if b < 0x20 || b > 0x7e {
			run = 0
		} else {
			count++
		}
		longest = max(longest, run)
	}
	if allPrintable(first, 6) || count*2 > len(first) || longest > 20 {
		return false
	}
	return !isTLS(first) && !isHTTP(first)
}

func allPrintable(b []byte, n int) bool {
	if len(b) < n {
		return false
	}
	for _, c := range b[:n] {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

func isTLS(b []byte) bool {
	return len(b) >= 3 && (b[0] == 0x16 || b[0] == 0x17) && b[1] == 3 && b[2] <= 9
}

func isHTTP(b []byte) bool {
	for _, method := range []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "CONNECT ", "PATCH ", "TRACE "} {
		if bytes.HasPrefix(b, []byte(method)) {
			return true
		}
	}
	return false
}

// protocols are what a gateway that "identifies applications" tells by the first octets of the client.
func protocols() map[string]func([]byte) bool {
	begins := func(words ...string) func([]byte) bool {
		return func(b []byte) bool {
			for _, w := range words {
				if bytes.HasPrefix(b, []byte(w)) {
					return true
				}
			}
			return false
		}
	}
	return map[string]func([]byte) bool{
		"http": isHTTP,
		"tls":  isTLS,
		"ssh":  begins("SSH-"),
		"smtp": begins("EHLO ", "HELO ", "LHLO "),
		"text": func(b []byte) bool { return allPrintable(b, min(len(b), 4)) },
	}
}

// Protocols are the names that Unless knows.
func Protocols() []string { return []string{"http", "tls", "ssh", "smtp", "text"} }

// Unless is a rule for a Filter: whatever is not one of these protocols by its first octets offends, as at gateways that
// let known applications through only. ok is false if a name is unknown.
func Unless(names ...string) (offends func(first []byte) bool, ok bool) {
	known := protocols()
	var allowed []func([]byte) bool
	for _, n := range names {
		is := known[n]
		if is == nil {
			return nil, false
		}
		allowed = append(allowed, is)
	}
	return func(first []byte) bool {
		for _, is := range allowed {
			if is(first) {
				return false
			}
		}
		return true
	}, true
}
