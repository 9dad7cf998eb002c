package decode

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"innertun/integration/tshark"
)

// cookieWorld is a connection that a server kept in an echo cookie while it was half-open.
type cookieWorld struct {
	cookie   []byte // in the SYN-ACK-U
	repeated []byte // in a repeated SYN-ACK-U; nil: there is none
	echo     []byte // the unit in which it comes back
}

func newCookie() *cookieWorld {
	cookie := bytes.Repeat([]byte{0xc0}, 29)
	return &cookieWorld{cookie: cookie, echo: unit(words(experiment(exIDCookie, cookie)), nil)}
}

func (c *cookieWorld) flow(t *testing.T) (*Flow, []Keys) {
	t.Helper()
	w, log := c.world(t)
	return w.flow(t), readKeys(t, log)
}

// world is its packets, and the key log.
func (c *cookieWorld) world(t *testing.T) (*world, string) {
	t.Helper()
	const aes = CipherAES128GCM
	w := newWorld(false)
	w.send(AtoB, SYN, nil, inSpace(nil, words(synENO, experiment(exIDInit, init1(aes))), nil))
	answer := func(cookie []byte) []byte { return inSpace(nil, words(synAckENO, experiment(exIDCookie, cookie)), nil) }
	w.put(BtoA, SYN|ACK, w.seqB, w.seqA, nil, answer(c.cookie))
	if c.repeated != nil {
		w.put(BtoA, SYN|ACK, w.seqB, w.seqA, nil, answer(c.repeated))
	}
	w.seqB += uint32(len(answer(c.cookie))) + 1
	sa := &sealer{t: t, cipher: aes, key: trafficKey(t, "ab0", aes), offset: uint64(len(c.echo) + len(init1(aes)))}
	sb := &sealer{t: t, cipher: aes, key: trafficKey(t, "ba0", aes), offset: uint64(len(init2(aes)))}
	w.send(AtoB, ACK|PSH, nil, c.echo)
	w.send(AtoB, ACK|PSH, nil, init1(aes))
	w.send(BtoA, ACK|PSH, nil, init2(aes))
	w.send(AtoB, ACK|PSH, nil, sa.frame(0, 0, unit(nil, []byte("GET /"))))
	w.send(BtoA, ACK|PSH, nil, sb.frame(0, flagFINp, unit(nil, []byte("answer"))))
	w.send(BtoA, ACK|FIN, nil, nil)
	w.send(AtoB, ACK|FIN|PSH, nil, sa.frame(0, flagFINp, nil))
	return w, keyLogLine(w, t, 0, aes)
}

// The unit with an echo cookie stands before the key exchange, and counts in the offsets of frames.
func TestEchoCookie(t *testing.T) {
	for _, repeated := range [][]byte{nil, bytes.Repeat([]byte{0xc1}, 29)} {
		for _, second := range []bool{false, true} {
			c := newCookie()
			c.repeated = repeated
			if second {
				if repeated == nil {
					continue
				}
				c.echo = unit(words(experiment(exIDCookie, repeated)), nil)
			}
			f, keys := c.flow(t)
			s, err := f.Decrypt(keys)
			if err != nil {
				t.Fatal(err)
			}
			if string(s.AtoB.Data) != "GET /" || string(s.BtoA.Data) != "answer" || s.Echoed != len(c.echo) || !s.InnerSpace {
				t.Errorf("%+v", s)
			}
			if err := s.Clean(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestEchoCookieRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(c *cookieWorld)
		want string
	}{
		"not echoed":              {func(c *cookieWorld) { c.echo = nil }, "echo"},
		"another cookie":          {func(c *cookieWorld) { c.echo[9] ^= 1 }, "echo"},
		"with payload":            {func(c *cookieWorld) { c.echo = unit(words(experiment(exIDCookie, c.cookie)), []byte("x")) }, "echo"},
		"with another option":     {func(c *cookieWorld) { c.echo = unit(words(experiment(exIDCookie, c.cookie), []byte{200, 2}), nil) }, "echo"},
		"an empty cookie":         {func(c *cookieWorld) { c.cookie = nil }, "octets"},
		"a repetition of another": {func(c *cookieWorld) { c.repeated = c.cookie[:28] }, "not that of the first"},
	} {
		w := newCookie()
		c.edit(w)
		f, keys := w.flow(t)
		if _, err := f.Decrypt(keys); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
	// Nobody echoes what he was not asked to.
	u := newUpgraded()
	u.up = slices.Concat(newCookie().echo, u.up)
	f, keys := u.flow(t)
	if _, err := f.Decrypt(keys); err != nil {
		t.Errorf("within frames a cookie is an option as any other: %v", err)
	}
}

func TestDissectorEchoCookie(t *testing.T) {
	c := newCookie()
	w, log := c.world(t)
	first := len(c.echo) + len(init1(CipherAES128GCM))
	shown(t, tshark.Options{KeyLog: writeFile(t, []byte(log))}, w.file(t), map[string]string{
		"innertun.syn": "1 1", "tcpcrypt.init": "1 1 2", "innertun.is.unit": fmt.Sprint(len(c.echo), 4+len("GET /"), 4+len("answer")),
		"innertun.is.payload":  hexOf("GET /") + " " + hexOf("answer"),
		"innertun.option.exid": "0x4960 0x4966 0x4966", "tcpcrypt.frame.offset": fmt.Sprint(first, len(init2(CipherAES128GCM)), first+20+9), "tcpcrypt.error": "", "tcpcrypt.unauthentic": "",
	})
}
