package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"innertun/socks"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

const notBuilt = "is not built yet"

// readRoot reads every section into c.
func readRoot(root *table, c *Config) {
	if t := root.sub("egress"); t != nil {
		readEgress(t, &c.Egress)
	}
	if t := root.sub("tcpinc"); t != nil {
		readTCPInc(t, &c.TCPInc)
	}
	if t := root.sub("tun"); t != nil {
		c.TUN = readTUN(t)
	}
	if t := root.sub("socks"); t != nil {
		c.SOCKS = readSOCKS(t)
	}
	if t := root.sub("identity"); t != nil {
		readIdentity(t, &c.Identity)
	}
	readPeers(root, c)
	for _, t := range root.subs("serve") {
		s := readServe(t, c)
		if slices.ContainsFunc(c.Serve, s.overlaps) {
			t.fail("listen", "%q is served already", t.m["listen"])
		}
		c.Serve = append(c.Serve, s)
	}
	for _, t := range root.subs("rule") {
		c.Rules = append(c.Rules, readRule(t, c))
	}
	if t := root.sub("control"); t != nil {
		readControl(t, &c.Control)
	}
}

// overlaps tells whether one connection could belong to both.
func (s Serve) overlaps(o Serve) bool {
	all := func(a netip.Addr) bool { return !a.IsValid() }
	a, b := s.Listen.Addr(), o.Listen.Addr()
	return s.Listen.Port() != 0 && s.Listen.Port() == o.Listen.Port() &&
		(a == b || all(a) || all(b) || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified()))
}

func readEgress(t *table, e *Egress) {
	defer t.done()
	t.choice("mode", &e.Mode, []string{"auto", "packet"}, []string{"nat"})
	if t.str("interface", &e.Interface) {
		if err := checkInterface(e.Interface); err != nil {
			t.fail("interface", "%v", err)
		}
	}
	parsed(t, "ports", ParsePorts, &e.Ports)
}

// choice sets *to from one of the words that are built.
func (t *table) choice(name string, to *string, built, later []string) {
	var s string
	switch {
	case !t.str(name, &s):
	case slices.Contains(built, s):
		*to = s
	case slices.Contains(later, s):
		t.fail(name, "%q %s, expected %s", s, notBuilt, words(built))
	default:
		t.fail(name, "%q is unknown, expected %s", s, words(built))
	}
}

func words(l []string) string {
	var s string
	for i, w := range l {
		switch {
		case i > 0 && i == len(l)-1:
			s += " or "
		case i > 0:
			s += ", "
		}
		s += fmt.Sprintf("%q", w)
	}
	return s
}

// parsed sets *to from a string that parse understands.
func parsed[T any](t *table, name string, parse func(string) (T, error), to *T) bool {
	var s string
	if !t.str(name, &s) {
		return false
	}
	v, err := parse(s)
	if err != nil {
		t.fail(name, "%v", err)
		return false
	}
	*to = v
	return true
}

func readTCPInc(t *table, c *TCPInc) {
	defer t.done()
	parsed(t, "policy", tcpinc.ParsePolicy, &c.Policy)
	readTEPs(t, &c.TEPs)
	readCiphers(t, &c.Ciphers)
	parsed(t, "inner_space", tcpinc.ParseInnerSpaceMode, &c.InnerSpace)
	readSkipPorts(t, &c.SkipPorts)
	t.boolean("resume", &c.Resume)
	t.boolean("session_cache", &c.SessionCache)
	t.boolean("early_data", &c.EarlyData)
	checkEarly(t, &Overrides{EarlyData: &c.EarlyData}, &Config{TCPInc: *c})
	if r := t.sub("rekey"); r != nil {
		readRekey(r, &c.Rekey)
	}
	t.choice("app_aware", &c.AppAware, []string{"auto", "on", "mandatory"}, nil)
	parsed(t, "rst", tcpinc.ParseResetMode, &c.RST)
}

func readTEPs(t *table, to *[]eno.TEP) {
	var names []string
	if !t.strings("teps", "strings", func(s string) error { _, err := tcpinc.ParseTEP(s); return err }, &names) {
		return
	}
	teps, err := ParseTEPs(names)
	if err != nil {
		t.fail("teps", "%v", err)
		return
	}
	*to = teps
}

func readCiphers(t *table, to *[]tcpcrypt.Cipher) {
	var names []string
	if !t.strings("ciphers", "strings", func(s string) error { _, err := tcpcrypt.ParseCipher(s); return err }, &names) {
		return
	}
	ciphers, err := ParseCiphers(names)
	if err != nil {
		t.fail("ciphers", "%v", err)
		return
	}
	*to = ciphers
}

func readSkipPorts(t *table, to *[]uint16) {
	ports := []uint16{}
	ok := t.list("skip_ports", "port numbers", func(path string, v any) {
		n, ok := v.(int64)
		if !ok || n < 1 || n > 65535 {
			t.doc.fail(path, "is %s, expected a port number from 1 to 65535", typeName(v))
			return
		}
		ports = append(ports, uint16(n))
	})
	if ok {
		*to = ports
	}
}

func readRekey(t *table, r *Rekey) {
	defer t.done()
	readSize(t, "bytes", &r.Bytes)
	frames := int64(r.Frames)
	if t.integer("frames", 1, 1<<48, &frames) {
		r.Frames = uint64(frames)
	}
	parsed(t, "time", ParseDuration, &r.Time)
}

// readSize reads a size as text, or a plain number of octets.
func readSize(t *table, name string, to *uint64) {
	v, _ := t.get(name)
	if _, plain := v.(int64); !plain {
		parsed(t, name, ParseSize, to)
		return
	}
	var octets int64
	if t.integer(name, 1, math.MaxInt64, &octets) {
		*to = uint64(octets)
	}
}

func readTUN(t *table) *TUN {
	defer t.done()
	c := DefaultTUN()
	if t.str("name", &c.Name) {
		if err := checkInterface(c.Name); err != nil {
			t.fail("name", "%v", err)
		}
	}
	readPrefixes(t, "routes", &c.Routes)
	readPrefixes(t, "exclude", &c.Exclude)
	mtu := int64(c.MTU)
	if t.integer("mtu", 1280, 65535, &mtu) {
		c.MTU = int(mtu)
	}
	var forward bool
	if t.boolean("forward", &forward) && forward {
		t.fail("forward", "forwarded connections: %s, expected false", notBuilt)
	}
	return c
}

func readPrefixes(t *table, name string, to *[]netip.Prefix) {
	out := []netip.Prefix{}
	var ignored []string
	check := func(s string) error {
		p, err := ParsePrefix(s)
		if err == nil {
			out = append(out, p)
		}
		return err
	}
	if t.strings(name, "prefixes", check, &ignored) {
		*to = out
	}
}

func readSOCKS(t *table) *SOCKS {
	defer t.done()
	c := &SOCKS{Listen: netip.MustParseAddrPort(DefaultSOCKS)}
	parsed(t, "listen", ParseListen, &c.Listen)
	for _, u := range t.subs("users") {
		user := socks.User{}
		for name, to := range map[string]*string{"name": &user.Name, "password": &user.Password} {
			switch {
			case !u.str(name, to):
				if !u.has(name) {
					u.fail(name, "is missing: every user has a name and a password")
				}
			case len(*to) < 1 || len(*to) > 255:
				u.fail(name, "has %d octets, expected 1 to 255", len(*to))
			}
		}
		u.done()
		if slices.ContainsFunc(c.Users, func(x socks.User) bool { return x.Name == user.Name }) {
			u.fail("name", "%q is there twice", user.Name)
		}
		c.Users = append(c.Users, user)
	}
	return c
}

func readServe(t *table, c *Config) Serve {
	defer t.done()
	s := Serve{Source: "none"}
	for _, name := range []string{"listen", "forward"} {
		if !t.has(name) {
			t.fail(name, "is missing: [[serve]] needs listen and forward")
		}
	}
	parsed(t, "listen", ParseListen, &s.Listen)
	parsed(t, "forward", ParseForward, &s.Forward)
	readOverrides(t, &s.Overrides)
	checkEarly(t, &s.Overrides, c)
	readServePeers(t, &s, c)
	t.choice("source", &s.Source, []string{"none"}, []string{"proxy-v2", "transparent"})
	return s
}

func readControl(t *table, c *Control) {
	defer t.done()
	if t.str("socket", &c.Socket) && c.Socket == "" {
		t.fail("socket", "is empty, expected a file name")
	}
	if _, ok := t.get("metrics"); ok {
		t.fail("metrics", "%s; remove it", notBuilt)
	}
}

// ParseTEPs reads a list of key exchanges, preferred first.
func ParseTEPs(names []string) ([]eno.TEP, error) {
	var out []eno.TEP
	for _, name := range names {
		tep, err := tcpinc.ParseTEP(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, tep) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		out = append(out, tep)
	}
	if len(out) == 0 {
		var have []string
		for _, tep := range tcpcrypt.TEPs() {
			have = append(have, tcpinc.TEPName(tep))
		}
		return nil, fmt.Errorf("is empty, expected at least one of %s", words(have))
	}
	return out, nil
}

// ParseCiphers reads a list of ciphers, preferred first.
func ParseCiphers(names []string) ([]tcpcrypt.Cipher, error) {
	var out []tcpcrypt.Cipher
	for _, name := range names {
		c, err := tcpcrypt.ParseCipher(name)
		if err != nil {
			return nil, fmt.Errorf("unknown cipher %q (known: %s)", name, cipherNames())
		}
		if slices.Contains(out, c) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the list is empty, expected at least one cipher")
	}
	return out, nil
}

func cipherNames() string {
	var names []string
	for _, c := range tcpcrypt.Ciphers() {
		names = append(names, c.String())
	}
	return strings.Join(names, ", ")
}
