package tcpinc

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// What a passive opener answers to suboption data. RFC 8548, Section 3.5.
func TestAnswersToSuboptions(t *testing.T) {
	to, from := netip.MustParseAddrPort("198.18.0.2:7"), netip.MustParseAddrPort("198.18.0.1:0")
	for name, v := range map[string]struct {
		edit func(tep byte, data []byte) (byte, []byte)
		tep  byte // of the answer, 0: none
	}{
		"half and nonce":     {func(tep byte, data []byte) (byte, []byte) { return tep, data }, 0xa3},
		"half alone":         {func(tep byte, data []byte) (byte, []byte) { return tep, data[:9] }, 0xa3},
		"8 octets":           {func(tep byte, data []byte) (byte, []byte) { return tep, data[:8] }, 0x23},
		"no octets":          {func(tep byte, data []byte) (byte, []byte) { return tep, nil }, 0x23},
		"18 octets":          {func(tep byte, data []byte) (byte, []byte) { return tep, append(data, 1) }, 0},
		"unknown half":       {func(tep byte, data []byte) (byte, []byte) { data[3] ^= 1; return tep, data }, 0x23},
		"known, another TEP": {func(_ byte, data []byte) (byte, []byte) { return 0xa1, data }, 0x21},
	} {
		t.Run(name, func(t *testing.T) {
			atA, atB := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
			defer atA.Close()
			defer atB.Close()
			cached(t, tcpcrypt.Curve25519, atA, atB, from, to)
			tep, data := v.edit(0xa3, atA.Take(to, nil).Suboption(make([]byte, 8)))
			h, err := Config{Sessions: atB}.NewPassive()
			if err != nil {
				t.Fatal(err)
			}
			h.Receive(SYN, append([]byte{69, byte(3 + len(data)), tep}, data...), nil)
			answer := h.AppendOptions(nil, SYNACK, 21)
			switch {
			case v.tep == 0:
				if len(answer) != 0 || h.Outcome().Reason != eno.NoCommonTEP {
					t.Errorf("answer %x, %v", answer, h.Outcome().Reason)
				}
			case v.tep&0x80 == 0:
				if !bytes.Equal(answer, []byte{69, 4, 1, v.tep}) {
					t.Errorf("answer %x", answer)
				}
			case len(answer) != 21 || answer[3] != v.tep:
				t.Errorf("answer %x", answer)
			}
			want := uint64(1)
			if v.tep == 0xa3 {
				want = 2
			}
			if got := atB.Sessions()[0].Next; got != want {
				t.Errorf("the next secret is ss[%d], want ss[%d]", got, want)
			}
		})
	}
}

// An answer that does not match what was offered is ignored: as the only one it turns ENO off. RFC 8548, Section 3.5.
func TestMismatchIsIgnored(t *testing.T) {
	to, from := netip.MustParseAddrPort("198.18.0.2:7"), netip.MustParseAddrPort("198.18.0.1:0")
	for name, edit := range map[string]func(answer, syn []byte) []byte{
		"other half":      func(o, _ []byte) []byte { o[4] ^= 1; return o },
		"too long":        func(o, _ []byte) []byte { o[1]++; return append(o, 0) },
		"too short":       func(o, _ []byte) []byte { o[1] = 12; return o[:12] },
		"no data":         func(o, _ []byte) []byte { o[1] = 4; return o[:4] },
		"host A's octets": func(_, syn []byte) []byte { return slices.Concat([]byte{69, 21, 1, 0xa3}, syn[4:]) },
	} {
		t.Run(name, func(t *testing.T) {
			atA, atB := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
			defer atA.Close()
			defer atB.Close()
			cached(t, tcpcrypt.Curve25519, atA, atB, from, to)
			a, errA := Config{Sessions: atA}.newHandshake(eno.Config{}, to)
			b, errB := Config{Sessions: atB}.NewPassive()
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			syn := a.AppendOptions(nil, SYN, 21)
			b.Receive(SYN, syn, nil)
			a.Receive(SYNACK, edit(b.AppendOptions(nil, SYNACK, 21), syn), nil)
			if out := a.Outcome(); out.State != eno.Disabled || out.Reason != eno.NoCommonTEP || out.Encrypt() {
				t.Errorf("outcome %+v", out)
			}
			if ack := a.AppendOptions(nil, NonSYN, 20); len(ack) != 0 {
				t.Errorf("ACK with %x", ack)
			}
			if ticket, _ := a.agreed(); ticket != nil {
				t.Error("resumes")
			}
		})
	}
}
