package decode

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// resumed is a whole connection without Init messages. reversed has the passive opener be host A of the fresh exchange.
func resumed(t *testing.T, dataA, dataB []byte, reversed bool) (*world, []Keys) {
	t.Helper()
	w := newWorld(false)
	option := func(global []byte, data []byte) []byte {
		return append(append(append([]byte{69, byte(3 + len(global) + len(data))}, global...), 0xa3), data...)
	}
	w.send(AtoB, SYN, option(nil, dataA), nil)
	w.send(BtoA, SYN|ACK, option([]byte{1}, dataB), nil)
	w.send(AtoB, ACK, ackENO, nil)
	const c = CipherAES128GCM
	k := [2][]byte{trafficKey(t, "ab0", c), trafficKey(t, "ba0", c)}
	a, b := w.a, w.b
	if reversed {
		a, b = b, a
		k[0], k[1] = k[1], k[0]
	}
	sa, sb := &sealer{t: t, cipher: c, key: k[0]}, &sealer{t: t, cipher: c, key: k[1]}
	w.send(AtoB, ACK|PSH, ackENO, sa.frame(0, 0, []byte("GET /")))
	w.send(BtoA, ACK|PSH, nil, sb.frame(0, flagFINp, []byte("answer")))
	w.send(BtoA, ACK|FIN, nil, nil)
	w.send(AtoB, ACK|FIN|PSH, nil, sa.frame(0, flagFINp, nil))
	line := fmt.Sprintf("TCPCRYPT a3%064x 0 %x %x %04x %v %v\n", 5, trafficKey(t, "ab0", c), trafficKey(t, "ba0", c), c, a, b)
	return w, readKeys(t, line)
}

func suboption(fill byte, n int) []byte { return bytes.Repeat([]byte{fill}, n) }

func TestResumed(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		for _, nonce := range []int{0, 3, 8} {
			w, keys := resumed(t, suboption(1, 9+nonce), suboption(2, 9+nonce), reversed)
			s, err := w.flow(t).Decrypt(keys)
			if err != nil {
				t.Fatalf("reversed %v, nonces of %d: %v", reversed, nonce, err)
			}
			if !s.Resumed || s.Reversed != reversed || string(s.AtoB.Data) != "GET /" || string(s.BtoA.Data) != "answer" ||
				len(s.ResumeA.Nonce) != nonce || !bytes.Equal(s.ResumeB.Half, suboption(2, 9)) {
				t.Errorf("reversed %v, nonces of %d: %+v", reversed, nonce, s)
			}
			if err := s.Clean(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestResumedRefuses(t *testing.T) {
	good, other := suboption(1, 17), suboption(2, 17)
	for name, c := range map[string]struct {
		a, b  []byte
		spoil func(k *Keys)
		want  string
	}{
		"short":                  {a: suboption(1, 8), b: other, want: "8 octets from host A"},
		"long":                   {a: good, b: suboption(2, 18), want: "18 octets from host B"},
		"same half":              {a: good, b: good, want: "the same half"},
		"keys the other way":     {a: good, b: other, spoil: func(k *Keys) { k.A, k.B = k.B, k.A }, want: "message authentication failed"},
		"session ID with v = 0":  {a: good, b: other, spoil: func(k *Keys) { k.SessionID[0] = 0x23 }, want: "TEP byte"},
		"keys of somewhere else": {a: good, b: other, spoil: func(k *Keys) { k.B = k.A }, want: "no keys"},
	} {
		w, keys := resumed(t, c.a, c.b, false)
		if c.spoil != nil {
			c.spoil(&keys[0])
		}
		if _, err := w.flow(t).Decrypt(keys); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
	// Host B cannot resume what A has not offered.
	w := newWorld(false)
	w.send(AtoB, SYN, synENO, nil)
	w.send(BtoA, SYN|ACK, append([]byte{69, 21, 1, 0xa3}, other...), nil)
	w.send(AtoB, ACK, ackENO, nil)
	if n := w.flow(t).Negotiate(); len(n.Violations) != 1 || !strings.Contains(n.Violations[0], "did not offer") {
		t.Errorf("violations %q", n.Violations)
	}
	// A fresh session goes by the roles of its opening.
	f := conversation(t, false, CipherAES128GCM, nil)
	keys := keysOf(f, t, CipherAES128GCM)
	for i := range keys {
		keys[i].A, keys[i].B = keys[i].B, keys[i].A
	}
	if _, err := f.flow(t).Decrypt(keys); err == nil || !strings.Contains(err.Error(), "as host A of a fresh session") {
		t.Errorf("fresh, roles exchanged: %v", err)
	}
}
