package decode

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// upgradedWorld is a connection with keys exchanged in the SYNs, and a unit each way. edit changes what is about to be sent.
type upgradedWorld struct {
	synU, synAckU      []byte
	header             []byte // options of the SYN-U's header
	third              []byte // of the third segment
	up, down           []byte // plaintext
	finA               byte
	ack                uint32 // added to what the SYN-ACK-U acknowledges
	repeat             []byte // the data of a repeated SYN-U; nil: none
	declined, goesOnly bool
}

func newUpgraded() *upgradedWorld {
	const c = CipherAES128GCM
	return &upgradedWorld{
		synU:    inSpace(nil, words(synENO, experiment(0x4960, init1(c))), nil),
		synAckU: inSpace(nil, words(synAckENO, experiment(0x4960, init2(c))), nil),
		up:      slices.Concat(unit(words(experiment(0x4961, []byte{0, 0, 0, 1})), []byte("GET")), unit(nil, nil), unit(nil, []byte(" /"))),
		down:    unit(nil, []byte("answer")), finA: flagFINp,
	}
}

func (u *upgradedWorld) flow(t *testing.T) (*Flow, []Keys) {
	t.Helper()
	w, log := u.world(t)
	if log == "" {
		return w.flow(t), nil
	}
	return w.flow(t), readKeys(t, log)
}

// world is its packets, and the key log.
func (u *upgradedWorld) world(t *testing.T) (*world, string) {
	t.Helper()
	const c = CipherAES128GCM
	w := newWorld(false)
	w.send(AtoB, SYN, u.header, u.synU)
	if u.repeat != nil {
		w.put(AtoB, SYN, w.seqA-1-uint32(len(u.synU)), 0, nil, u.repeat)
	}
	switch {
	case u.declined:
		w.put(BtoA, SYN|ACK, w.seqB, w.seqA-uint32(len(u.synU)), nil, nil)
	default:
		w.put(BtoA, SYN|ACK, w.seqB, w.seqA+u.ack, nil, u.synAckU)
		w.seqB += uint32(len(u.synAckU))
	}
	w.seqB++
	if u.declined && !u.goesOnly {
		w.send(AtoB, RST, nil, nil)
		return w, ""
	}
	sa := &sealer{t: t, cipher: c, key: trafficKey(t, "ab0", c)}
	sb := &sealer{t: t, cipher: c, key: trafficKey(t, "ba0", c)}
	half := len(u.up) / 2
	w.send(AtoB, ACK|PSH, u.third, sa.frame(0, 0, u.up[:half]))
	w.send(BtoA, ACK|PSH, nil, sb.frame(0, flagFINp, u.down))
	w.send(BtoA, ACK|FIN, nil, nil)
	w.send(AtoB, ACK|FIN|PSH, nil, sa.frame(0, u.finA, u.up[half:]))
	return w, keyLogLine(w, t, 0, c)
}

func TestUpgraded(t *testing.T) {
	f, keys := newUpgraded().flow(t)
	s, err := f.Decrypt(keys)
	if err != nil {
		t.Fatal(err)
	}
	if !s.InnerSpace || s.Resumed || string(s.AtoB.Data) != "GET /" || string(s.BtoA.Data) != "answer" || s.AtoB.Units != 3 || s.BtoA.Units != 1 {
		t.Errorf("%+v", s)
	}
	if s.Negotiation.TEP != 0x23 || s.Init2.Cipher != CipherAES128GCM || s.Init1.Length != 0 || len(s.Init1.Public) != 32 {
		t.Errorf("%+v, %+v", s.Init1, s.Init2)
	}
	if len(s.AtoB.Inner) != 1 || s.AtoB.Inner[0].ExID != 0x4961 || s.AtoB.Inner[0].Position != 0 {
		t.Errorf("%+v", s.AtoB.Inner)
	}
	if err := s.Clean(); err != nil {
		t.Error(err)
	}
	// A SYN-U that is answered as an ordinary one is reset, and nothing is wrong with that.
	u := newUpgraded()
	u.declined = true
	f, _ = u.flow(t)
	if n := f.Negotiate(); len(n.Violations) > 0 || n.Enabled || n.UpgradedA == nil || n.UpgradedB != nil {
		t.Errorf("%+v", n)
	}
}

// A long Init1 comes in parts of 251 octets, the last of which is not full.
func TestInitInParts(t *testing.T) {
	for _, n := range []int{0, 250, 251, 252, 502, 620} {
		message := bytes.Repeat([]byte{7}, n)
		var parts []byte
		for rest := message; ; {
			k := min(len(rest), fullPart)
			parts = append(parts, experiment(exIDInit, rest[:k])...)
			rest = rest[k:]
			if k < fullPart {
				break
			}
		}
		u, err := ParseUpgraded(inSpace(nil, words(parts), []byte("x")))
		if err != nil || u == nil {
			t.Fatal(n, u, err)
		}
		if got, err := u.init(); !bytes.Equal(got, message) || err != nil || string(u.Payload) != "x" {
			t.Errorf("%d octets: %d, %v", n, len(got), err)
		}
	}
}

func TestUpgradedRefuses(t *testing.T) {
	full := experiment(exIDInit, bytes.Repeat([]byte{7}, fullPart))
	for name, c := range map[string]struct {
		edit func(u *upgradedWorld)
		want string
	}{
		"ENO in the header":        {func(u *upgradedWorld) { u.header = synENO }, "ENO in the header of an upgraded segment"},
		"ENO in the third segment": {func(u *upgradedWorld) { u.third = ackENO }, "ENO in the header of an upgraded connection"},
		"another repetition":       {func(u *upgradedWorld) { u.repeat = inSpace(nil, words(synENO), nil) }, "not that of the first"},
		"an ordinary repetition":   {func(u *upgradedWorld) { u.repeat = []byte{} }, "repeated as an ordinary SYN"},
		"data not acknowledged":    {func(u *upgradedWorld) { u.ack = ^uint32(3) }, "does not acknowledge"},
		"declined, and goes on":    {func(u *upgradedWorld) { u.declined, u.goesOnly = true, true }, "goes on although"},
		"Init2 unasked":            {func(u *upgradedWorld) { u.synU = inSpace(nil, words(synENO), nil) }, "Init1 is missing"},
		"Init1 that does not end":  {func(u *upgradedWorld) { u.synU = inSpace(nil, words(synENO, full), nil) }, "ends with a full part"},
		"octets behind Init1": {func(u *upgradedWorld) {
			u.synU = inSpace(nil, words(synENO, experiment(exIDInit, append(init1(1), 0))), nil)
		}, "octets after a message"},
		"an option too long":     {func(u *upgradedWorld) { u.synU = inSpace(nil, []byte{253, 9, 0, 0}, nil) }, "bad length"},
		"a wrong Len":            {func(u *upgradedWorld) { u.up[3] ^= 2 }, "Len is 3"},
		"a unit cut off":         {func(u *upgradedWorld) { u.up = append(u.up, unit(nil, []byte("more"))[:6]...) }, "octets into a unit"},
		"keys at another offset": {func(u *upgradedWorld) { u.synAckU = inSpace(nil, words(synAckENO), nil) }, "Init1"},
	} {
		u := newUpgraded()
		c.edit(u)
		f, keys := u.flow(t)
		if _, err := f.Decrypt(keys); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
	// Chance is not taken for an upgraded SYN.
	good := inSpace(nil, words(synENO), []byte("p"))
	for i := range 12 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x80
		if u, err := ParseUpgraded(bad); u != nil || err != nil {
			t.Errorf("octet %d changed: %+v, %v", i, u, err)
		}
	}
	for n := range good {
		if u, err := ParseUpgraded(good[:n]); u != nil || err != nil {
			t.Errorf("%d octets: %+v, %v", n, u, err)
		}
	}
}

// Without the mark in one of the SYN segments there are no units; with both there are.
func TestMarked(t *testing.T) {
	const c = CipherAES128GCM
	a, b := []byte{69, 7, 0x81, 0xa0, 'I', 'S', 0x23}, []byte{69, 8, 0x01, 0x81, 0xa0, 'I', 'S', 0x23}
	for _, both := range []bool{true, false} {
		w := newWorld(true)
		w.send(AtoB, SYN, a, nil)
		answer := b
		if !both {
			answer = synAckENO
		}
		w.send(BtoA, SYN|ACK, answer, nil)
		w.send(AtoB, ACK|PSH, ackENO, init1(c))
		w.send(BtoA, ACK|PSH, nil, init2(c))
		sa := &sealer{t: t, cipher: c, key: trafficKey(t, "ab0", c), offset: uint64(len(init1(c)))}
		u := unit(nil, []byte("data"))
		w.send(AtoB, ACK|PSH, nil, sa.frame(0, flagFINp, u))
		s, err := w.flow(t).Decrypt(readKeys(t, keyLogLine(w, t, 0, c)))
		if err != nil {
			t.Fatal(err)
		}
		want := "data"
		if !both {
			want = string(u)
		}
		if s.InnerSpace != both || string(s.AtoB.Data) != want {
			t.Errorf("marks of both %v: %v, %q", both, s.InnerSpace, s.AtoB.Data)
		}
	}
}

// A probe of a window that was zero repeats an octet that is acknowledged, with any value; another repetition must be true.
func TestWindowProbe(t *testing.T) {
	for _, acknowledged := range []bool{true, false} {
		w := newWorld(false)
		w.handshake()
		w.send(AtoB, ACK|PSH, nil, []byte("data"))
		if acknowledged {
			w.send(BtoA, ACK, nil, nil)
		}
		w.put(AtoB, ACK, w.seqA-1, w.seqB, nil, []byte{0})
		st, err := w.flow(t).Reassemble(AtoB)
		if (err == nil) != acknowledged || err == nil && string(st.Data) != "data" {
			t.Errorf("acknowledged %v: %v", acknowledged, err)
		}
	}
}
