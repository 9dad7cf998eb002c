package config

import (
	"errors"
	"flag"
	"strings"

	"innertun/tcpinc"
)

// Flags are the command line's way to set what a file can set. A flag that is not given changes nothing.
type Flags struct {
	Interface, Policy, TEPs, Ciphers, InnerSpace, Control, KeyLog string
	Listen, Forward                                               string
}

// Common registers the flags of every command that runs connections.
func (f *Flags) Common(fs *flag.FlagSet) {
	fs.StringVar(&f.Interface, "interface", "", "")
	fs.StringVar(&f.Interface, "i", "", "")
	fs.StringVar(&f.Policy, "policy", "", "")
	fs.StringVar(&f.TEPs, "teps", "", "")
	fs.StringVar(&f.Ciphers, "ciphers", "", "")
	fs.StringVar(&f.InnerSpace, "inner-space", "", "")
	fs.StringVar(&f.Control, "control", "", "")
	fs.StringVar(&f.KeyLog, "keylog", "", "")
}

// Apply sets what the flags of Common say. Its errors are wrong usage.
func (f *Flags) Apply(c *Config) error {
	if f.Interface != "" {
		if err := checkInterface(f.Interface); err != nil {
			return flagError("interface", err)
		}
		c.Egress.Interface = f.Interface
	}
	if f.Policy != "" {
		p, err := tcpinc.ParsePolicy(f.Policy)
		if err != nil {
			return flagError("policy", err)
		}
		c.TCPInc.Policy = p
	}
	if f.TEPs != "" {
		teps, err := ParseTEPs(split(f.TEPs))
		if err != nil {
			return flagError("teps", err)
		}
		c.TCPInc.TEPs = teps
	}
	if f.Ciphers != "" {
		ciphers, err := ParseCiphers(split(f.Ciphers))
		if err != nil {
			return flagError("ciphers", err)
		}
		c.TCPInc.Ciphers = ciphers
	}
	if f.InnerSpace != "" {
		m, err := tcpinc.ParseInnerSpaceMode(f.InnerSpace)
		if err != nil {
			return flagError("inner-space", err)
		}
		c.TCPInc.InnerSpace = m
	}
	if f.Control != "" {
		c.Control.Socket = f.Control
	}
	if f.KeyLog != "" {
		c.KeyLog = f.KeyLog
	}
	return nil
}

// ApplySOCKS enables SOCKS as the flags of `innertun socks` say.
func (f *Flags) ApplySOCKS(c *Config) error {
	listen := f.Listen
	if listen == "" {
		listen = DefaultSOCKS
	}
	at, err := ParseListen(listen)
	if err != nil {
		return flagError("listen", err)
	}
	c.SOCKS = &SOCKS{Listen: at}
	return nil
}

// ApplyServe enables one served port as the flags of `innertun serve` say.
func (f *Flags) ApplyServe(c *Config) error {
	if f.Listen == "" || f.Forward == "" {
		return &Error{Msg: "-listen and -forward are needed, as in: innertun serve -listen 80 -forward 127.0.0.1:80"}
	}
	if f.Policy == tcpinc.Ratchet.String() {
		return flagError("policy", errors.New("ratchet is for destinations: serve knows opportunistic, require and off"))
	}
	at, err := ParseListen(f.Listen)
	if err != nil {
		return flagError("listen", err)
	}
	to, err := ParseForward(f.Forward)
	if err != nil {
		return flagError("forward", err)
	}
	c.Serve = []Serve{{Listen: at, Forward: to, Source: "none", Auth: AuthNone}}
	return nil
}

func flagError(name string, err error) error {
	return &Error{Key: "-" + name, Msg: err.Error()}
}

func split(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
