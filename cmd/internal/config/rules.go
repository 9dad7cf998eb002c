package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// Rule is one [[rule]]: a policy for some destinations.
type Rule struct {
	To     []string // as written; empty: any
	Ports  []Ports  // empty: any
	Policy tcpinc.Policy
	Overrides

	prefixes []netip.Prefix
	names    []glob
}

func readRule(t *table, c *Config) Rule {
	defer t.done()
	var r Rule
	t.strings("to", "prefixes, addresses or names", r.add, &r.To)
	readPorts(t, &r.Ports)
	if !parsed(t, "policy", tcpinc.ParsePolicy, &r.Policy) && !t.has("policy") {
		t.fail("policy", "is missing: a rule needs a policy (opportunistic, require, ratchet or off)")
	}
	readOverrides(t, &r.Overrides)
	checkEarly(t, &r.Overrides, c)
	if r.EarlyData != nil && *r.EarlyData && r.Policy == tcpinc.Off {
		t.fail("early_data", "early data is encrypted, and the policy is off: give another policy, or remove early_data")
	}
	return r
}

func readPorts(t *table, to *[]Ports) {
	t.list("port", "port numbers or ranges", func(path string, v any) {
		switch v := v.(type) {
		case int64:
			if v >= 1 && v <= 65535 {
				*to = append(*to, Ports{uint16(v), uint16(v)})
				return
			}
		case string:
			p, err := ParsePorts(v)
			if err == nil {
				*to = append(*to, p)
				return
			}
			t.doc.fail(path, "%v", err)
			return
		}
		t.doc.fail(path, "is %s, expected a port number from 1 to 65535 or a range like \"8000-8100\"", typeName(v))
	})
}

func readOverrides(t *table, o *Overrides) {
	readTEPs(t, &o.TEPs)
	readCiphers(t, &o.Ciphers)
	for name, to := range map[string]**bool{"resume": &o.Resume, "session_cache": &o.SessionCache, "early_data": &o.EarlyData} {
		var b bool
		if t.boolean(name, &b) {
			*to = &b
		}
	}
	var inner tcpinc.InnerSpaceMode
	if parsed(t, "inner_space", tcpinc.ParseInnerSpaceMode, &inner) {
		o.InnerSpace = &inner
	}
}

// checkEarly says what early data lacks that was asked for where o is in force.
func checkEarly(t *table, o *Overrides, c *Config) {
	if o.EarlyData == nil || !*o.EarlyData {
		return
	}
	inner := c.TCPInc.InnerSpace
	if o.InnerSpace != nil {
		inner = *o.InnerSpace
	}
	resume, cache := c.Sessions(*o)
	switch {
	case !resume || !cache:
		t.fail("early_data", "early data goes with sessions that are resumed: set resume and session_cache to true, or remove early_data")
	case inner == tcpinc.InnerSpaceOff:
		t.fail("early_data", "early data travels by Inner Space: set inner_space to \"auto\" or \"on\", or remove early_data")
	}
}

// add takes one entry of to.
func (r *Rule) add(s string) error {
	if p, err := ParsePrefix(s); err == nil {
		r.prefixes = append(r.prefixes, p)
		return nil
	} else if strings.ContainsAny(s, "/:") {
		return err
	}
	g, err := parseGlob(s)
	if err != nil {
		return err
	}
	r.names = append(r.names, g)
	return nil
}

func (r *Rule) matches(name string, addr netip.Addr, port uint16) bool {
	if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.Contains(port) }) {
		return false
	}
	if len(r.To) == 0 {
		return true
	}
	if addr.IsValid() && slices.ContainsFunc(r.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return true
	}
	return name != "" && slices.ContainsFunc(r.names, func(g glob) bool { return g.match(name) })
}

// Decision is what is to become of a connection.
type Decision struct {
	Policy tcpinc.Policy
	Reason eno.Reason // why it is plain, for Off: eno.PolicyOff or eno.SkipPort
	Rule   int        // the index of the rule that matched, -1 if none did
}

// Policies decides about destinations. It may be used from any goroutine.
type Policies struct {
	cfg  *Config
	log  *slog.Logger
	once sync.Once
}

// NewPolicies returns the Policies of c; log may be nil.
func NewPolicies(c *Config, log *slog.Logger) *Policies {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Policies{cfg: c, log: log}
}

// Lookup decides about a destination. The name is that of a SOCKS request, "" if there is none; an address that is not
// known yet is the zero Addr, and no prefix matches it. The first rule that matches wins.
func (p *Policies) Lookup(name string, addr netip.Addr, port uint16) Decision {
	name, addr = canonicalName(name), addr.Unmap().WithZone("")
	for i := range p.cfg.Rules {
		if r := &p.cfg.Rules[i]; r.matches(name, addr, port) {
			return decide(r.Policy, i)
		}
	}
	t := &p.cfg.TCPInc
	if t.Policy != tcpinc.Off && slices.Contains(t.SkipPorts, port) {
		if t.Policy == tcpinc.Require {
			p.once.Do(func() {
				p.log.Warn("policy is require, but ports in skip_ports stay as they are: the application encrypts there",
					"port", port, "skip_ports", t.SkipPorts)
			})
		}
		return Decision{Policy: tcpinc.Off, Reason: eno.SkipPort, Rule: -1}
	}
	return decide(t.Policy, -1)
}

func decide(policy tcpinc.Policy, rule int) Decision {
	d := Decision{Policy: policy, Rule: rule}
	if policy == tcpinc.Off {
		d.Reason = eno.PolicyOff
	}
	return d
}

// Dialling is a decision about a destination as tcpinc takes it.
func (p *Policies) Dialling(d Decision) tcpinc.DialOptions {
	var own Overrides
	if d.Rule >= 0 {
		own = p.cfg.Rules[d.Rule].Overrides
	}
	resume, cache := p.cfg.Sessions(own)
	return tcpinc.DialOptions{
		Policy: d.Policy, Reason: d.Reason, TEPs: own.TEPs, Ciphers: own.Ciphers, NoResume: !resume, NoCache: !cache,
		InnerSpace: own.InnerSpace,
	}
}

// Early is whether the first octets to a destination are to leave as early data, where that can be.
func (p *Policies) Early(d Decision) bool {
	var own Overrides
	if d.Rule >= 0 {
		own = p.cfg.Rules[d.Rule].Overrides
	}
	return d.Policy != tcpinc.Off && p.cfg.Early(own)
}

// Serving is the decision about connections that are served: neither rules nor skip_ports have a say there. Ratchet is for
// destinations: a client's address may be that of many hosts.
func (p *Policies) Serving() Decision {
	policy := p.cfg.TCPInc.Policy
	if policy == tcpinc.Ratchet {
		policy = tcpinc.Opportunistic
	}
	return decide(policy, -1)
}
