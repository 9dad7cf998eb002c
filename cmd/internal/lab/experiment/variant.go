package experiment

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/lab/cell"
	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// variant reads what the two ends speak. What [variant.server] does not say is as for the client; but the server's policy is
// opportunistic, or off where the client's is.
func (r *reader) variant(t config.Table) cell.Variant {
	defer t.Done()
	v := cell.Variant{Name: "plain"}
	t.String("name", &v.Name)
	policy := "opportunistic"
	if v.Name == "plain" {
		policy = "off"
	}
	v.Client.Policy = r.side(t, policy, &v.Client)
	v.Server = v.Client
	v.Server.EarlyData, v.Server.Config.EarlyData = false, v.Client.EarlyData
	v.Server.Policy = tcpinc.Opportunistic
	if v.Client.Policy == tcpinc.Off {
		v.Server.Policy = tcpinc.Off
	}
	if s, ok := t.Table("server"); ok {
		early := v.Server.Config.EarlyData
		s.Bool("early-data", &early)
		v.Server.Policy = r.side(s, v.Server.Policy.String(), &v.Server)
		v.Server.EarlyData, v.Server.Config.EarlyData = false, early
		s.Done()
	}
	for _, o := range t.Tables("option") {
		r.option(o, &v)
	}
	return v
}

// side reads what one end speaks over what is there.
func (r *reader) side(t config.Table, byDefault string, s *cell.Side) tcpinc.Policy {
	policy := byDefault
	t.String("policy", &policy)
	p, err := tcpinc.ParsePolicy(policy)
	if err != nil {
		t.Fail("policy", "%v", err)
	}
	words(t, "teps", tcpinc.ParseTEP, &s.Config.TEPs)
	words(t, "ciphers", tcpcrypt.ParseCipher, &s.Config.Ciphers)
	choice(t, "inner-space", tcpinc.ParseInnerSpaceMode, &s.Config.InnerSpace)
	choice(t, "rst", tcpinc.ParseResetMode, &s.Config.RST)
	t.Bool("resume", &s.Resume)
	t.Bool("early-data", &s.EarlyData)
	if s.EarlyData && (!s.Resume || s.Config.InnerSpace == tcpinc.InnerSpaceOff) {
		t.Fail("early-data", `needs resume = true and inner-space = "auto" or "on"`)
	}
	return p
}

func words[V any](t config.Table, name string, parse func(string) (V, error), to *[]V) {
	values := t.Values(name)
	if len(values) > 0 {
		*to = nil
	}
	for i, v := range values {
		text, _ := v.(string)
		x, err := parse(text)
		if err != nil {
			t.Fail(fmt.Sprintf("%s[%d]", name, i), "%v", err)
			continue
		}
		*to = append(*to, x)
	}
}

func choice[V any](t config.Table, name string, parse func(string) (V, error), to *V) {
	text := ""
	if t.String(name, &text); !t.Has(name) {
		return
	}
	x, err := parse(text)
	if err != nil {
		t.Fail(name, "%v", err)
		return
	}
	*to = x
}

const (
	maxOuterData = 38  // a header has 40 octets for options
	maxInnerData = 253 // RFC 9293, Section 3.1: the length is an octet
)

// option reads an option of the user's own, and puts it where it is to be.
func (r *reader) option(t config.Table, v *cell.Variant) {
	defer t.Done()
	kind, place, segments, from, text := 253, "outer", "all", "both", ""
	number(t, "kind", 2, 255, &kind)
	exid := -1
	number(t, "exid", 0, 0xffff, &exid)
	t.String("data", &text)
	oneOf(t, "place", &place, "outer", "prefix", "suffix", "stream")
	oneOf(t, "segments", &segments, "syn", "non-syn", "all")
	oneOf(t, "from", &from, "client", "server", "both")
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fail("data", "%q: expected hexadecimal digits, two for an octet", text)
	}
	if exid >= 0 {
		data = append(binary.BigEndian.AppendUint16(nil, uint16(exid)), data...)
	}
	if (kind == 253 || kind == 254) && len(data) < 2 {
		t.Fail("exid", "an option of kind %d begins with a 16-bit ExID (RFC 6994)", kind)
	}
	limit := maxInnerData
	if place == "outer" {
		limit = maxOuterData
	}
	if len(data) > limit {
		t.Fail("data", "%d octets with the ExID, at most %d", len(data), limit)
		return
	}
	if place != "outer" && t.Has("segments") {
		t.Fail("segments", `is for place = "outer": prefix and suffix are in the SYN, stream is not`)
	}
	if place != "outer" && v.Client.Config.InnerSpace == tcpinc.InnerSpaceOff {
		t.Fail("place", `%s needs inner-space = "auto" or "on" in the variant`, place)
	}
	inner, err := innerspace.AppendOption(nil, byte(kind), data)
	if err != nil {
		t.Fail("kind", "%v", err)
		return
	}
	if o := innerspace.Option(inner); place != "outer" && (kind == 69 || o.Known()) {
		t.Fail("kind", "%v is the project's own inside the data: take another ExID", o)
	}
	for _, side := range []struct {
		name string
		*cell.Side
	}{{"client", &v.Client}, {"server", &v.Server}} {
		if from != side.name && from != "both" {
			continue
		}
		switch place {
		case "outer":
			side.Outer = append(side.Outer, cell.OuterOption{Kind: uint8(kind), Data: data,
				Segments: map[string]lab.Segments{"syn": lab.SYNs, "non-syn": lab.NonSYNs, "all": lab.All}[segments]})
		case "prefix":
			side.Config.Own.Prefix = append(side.Config.Own.Prefix, inner...)
		case "suffix":
			side.Config.Own.Suffix = append(side.Config.Own.Suffix, inner...)
		case "stream":
			side.Stream = append(side.Stream, inner)
		}
	}
}

func oneOf(t config.Table, name string, to *string, choices ...string) {
	t.String(name, to)
	for _, c := range choices {
		if *to == c {
			return
		}
	}
	t.Fail(name, "%q: expected one of %s", *to, strings.Join(choices, ", "))
}
