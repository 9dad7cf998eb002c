package socks

// Greeting is a client's first message: the methods it offers, 1 to 255 (RFC 1928, Section 3).
type Greeting struct{ Methods []Method }

// AppendGreeting appends g to dst; methods beyond 255 are left out.
func AppendGreeting(dst []byte, g Greeting) []byte {
	methods := g.Methods[:min(len(g.Methods), 255)]
	dst = append(dst, Version, byte(len(methods)))
	for _, m := range methods {
		dst = append(dst, byte(m))
	}
	return dst
}

// ParseGreeting reads a Greeting from the start of b and returns how many octets it has.
func ParseGreeting(b []byte) (Greeting, int, error) {
	if err := need(b, 1); err != nil {
		return Greeting{}, 0, err
	}
	if b[0] != Version {
		return Greeting{}, 0, &VersionError{Got: b[0], Want: Version}
	}
	if err := need(b, 2); err != nil {
		return Greeting{}, 0, err
	}
	n := 2 + int(b[1])
	if n == 2 {
		return Greeting{}, 0, malformed("no authentication method offered")
	}
	if err := need(b, n); err != nil {
		return Greeting{}, 0, err
	}
	g := Greeting{Methods: make([]Method, 0, n-2)}
	for _, m := range b[2:n] {
		g.Methods = append(g.Methods, Method(m))
	}
	return g, n, nil
}

// AppendChoice appends the server's choice of a method (RFC 1928, Section 3).
func AppendChoice(dst []byte, m Method) []byte { return append(dst, Version, byte(m)) }

// ParseChoice reads the server's choice of a method from the start of b.
func ParseChoice(b []byte) (Method, int, error) {
	if err := need(b, 2); err != nil {
		return 0, 0, err
	}
	if b[0] != Version {
		return 0, 0, &VersionError{Got: b[0], Want: Version}
	}
	return Method(b[1]), 2, nil
}
