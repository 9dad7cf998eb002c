package tcpinc_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// fast is a transport with short ways of its own, and counts their use.
type fast struct {
	*crypttest.End
	wroteTo, readFrom, waited int
}

func (f *fast) WriteTo(w io.Writer) (int64, error) {
	f.wroteTo++
	return io.Copy(w, struct{ io.Reader }{f.End})
}

func (f *fast) ReadFrom(r io.Reader) (int64, error) {
	f.readFrom++
	return io.Copy(struct{ io.Writer }{f.End}, r)
}

func (f *fast) WaitRead() error {
	f.waited++
	return f.End.WaitRead()
}

// A plain Conn takes its transport's short ways, and does without where there are none.
func TestPlainConnPassesThrough(t *testing.T) {
	a, b := crypttest.Pipe(crypttest.Options{})
	f := &fast{End: b}
	for what, transport := range map[string]tcpinc.Transport{"fast": f, "slow": struct{ tcpinc.Transport }{b}} {
		c := tcpinc.Plain(transport, eno.Local)
		a.Write([]byte("in"))
		if err := c.WaitRead(); err != nil {
			t.Fatal(what, err)
		}
		p := make([]byte, 2)
		if _, err := io.ReadFull(c, p); err != nil || string(p) != "in" {
			t.Fatal(what, err)
		}
		if n, err := c.ReadFrom(strings.NewReader("out")); n != 3 || err != nil {
			t.Fatal(what, n, err)
		}
		p = make([]byte, 3)
		if _, err := io.ReadFull(a, p); err != nil || string(p) != "out" {
			t.Fatal(what, err)
		}
		if s := c.ConnectionState(); s.Encrypted || s.FallbackReason != eno.Local {
			t.Errorf("%s: %+v", what, s)
		}
	}
	a.CloseWrite()
	var got bytes.Buffer
	if n, err := tcpinc.Plain(f, eno.Local).WriteTo(&got); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := tcpinc.Plain(struct{ tcpinc.Transport }{b}, eno.Local).WriteTo(&got); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if f.wroteTo != 1 || f.readFrom != 1 || f.waited != 1 {
		t.Errorf("the transport's own ways were used %d, %d and %d times", f.wroteTo, f.readFrom, f.waited)
	}
	if _, err := tcpinc.Plain(f, eno.Local).SessionID(); !errors.Is(err, tcpinc.ErrNoSession) {
		t.Errorf("session ID: %v", err)
	}
}

// RFC 8548, Section 3.5: what data after a TEP identifier means to a host that does not resume.
func TestOffersWithResumptionData(t *testing.T) {
	for _, v := range []struct {
		length int
		valid  bool // to host B
	}{{0, true}, {8, true}, {9, true}, {17, true}, {18, false}} {
		b, err := tcpinc.Config{TEPs: []eno.TEP{tcpcrypt.Curve25519}}.NewPassive()
		if err != nil {
			t.Fatal(err)
		}
		b.Receive(tcpinc.SYN, append([]byte{69, byte(3 + v.length), 0xa3}, make([]byte, v.length)...), nil)
		answer := b.AppendOptions(nil, tcpinc.SYNACK, 40)
		if want := []byte{69, 4, 0x01, 0x23}; v.valid != bytes.Equal(answer, want) {
			t.Errorf("%d octets: answer %x", v.length, answer)
		}

		a, err := tcpinc.Config{TEPs: []eno.TEP{tcpcrypt.Curve25519}}.NewActive()
		if err != nil {
			t.Fatal(err)
		}
		a.AppendOptions(nil, tcpinc.SYN, 20)
		a.Receive(tcpinc.SYNACK, append([]byte{69, byte(4 + v.length), 0x01, 0xa3}, make([]byte, v.length)...), nil)
		if out := a.Outcome(); out.Reason != eno.NoCommonTEP {
			t.Errorf("host B resumes with %d octets what was not offered: %+v", v.length, out)
		}
	}
}

// SYN data is never sent and never taken. RFC 8547, Section 4.7.
func TestNoSYNData(t *testing.T) {
	h, err := tcpinc.Config{}.NewPassive()
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := h.Receive(tcpinc.SYN, []byte{69, 3, 0x23}, []byte("data")); taken || err != nil {
		t.Errorf("taken %v, %v", taken, err)
	}
	if got := h.AppendPayload([]byte("before"), tcpinc.SYNACK, 100); string(got) != "before" {
		t.Errorf("payload %q", got)
	}
}

func TestNames(t *testing.T) {
	for name, tep := range map[string]eno.TEP{"curve25519": 0x23, "curve448": 0x24, "p256": 0x21, "p521": 0x22} {
		if got, err := tcpinc.ParseTEP(name); got != tep || err != nil || tcpinc.TEPName(tep) != name {
			t.Errorf("%s: %v, %v, %s", name, got, err, tcpinc.TEPName(tep))
		}
	}
	if _, err := tcpinc.ParseTEP("rot13"); err == nil || !strings.Contains(err.Error(), "curve25519") {
		t.Errorf("%v", err)
	}
	if got := tcpinc.TEPName(0) + tcpinc.TEPName(0x55); got != "0x55" {
		t.Error(got)
	}
	for _, p := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require, tcpinc.Off, tcpinc.Ratchet} {
		if got, err := tcpinc.ParsePolicy(p.String()); got != p || err != nil {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := tcpinc.ParsePolicy("maybe"); err == nil {
		t.Error("unknown policy parsed")
	}
	if _, err := (tcpinc.Config{TEPs: []eno.TEP{eno.Experimental}}).NewActive(); !errors.Is(err, eno.ErrConfig) {
		t.Errorf("%v", err)
	}
}
