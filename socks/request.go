package socks

// Request is what a client wants once it is let in (RFC 1928, Section 4).
type Request struct {
	Command Command
	Dest    Address
}

// AppendRequest appends r to dst.
func AppendRequest(dst []byte, r Request) []byte {
	return AppendAddress(append(dst, Version, byte(r.Command), 0), r.Dest)
}

// ParseRequest reads a Request from the start of b. RSV is ignored.
func ParseRequest(b []byte) (Request, int, error) {
	if err := need(b, 1); err != nil {
		return Request{}, 0, err
	}
	if b[0] != Version {
		return Request{}, 0, &VersionError{Got: b[0], Want: Version}
	}
	if err := need(b, 4); err != nil {
		return Request{}, 0, err
	}
	dest, n, err := ParseAddress(b[3:])
	if err != nil {
		return Request{}, 0, err
	}
	return Request{Command: Command(b[1]), Dest: dest}, 3 + n, nil
}
