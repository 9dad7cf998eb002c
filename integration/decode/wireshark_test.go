package decode

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"innertun/integration/tshark"
)

// The dissector in docs/wireshark, run over captures made by hand.

// file writes the capture.
func (w *world) file(t *testing.T) string {
	t.Helper()
	b := new(bytes.Buffer)
	if _, err := b.ReadFrom(w.pcap(t)); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, b.Bytes())
}

func writeFile(t *testing.T, b []byte) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// line is a line of a key log for keys made by trafficKey.
func line(t *testing.T, w *world, tepByte byte, label string, generation int, cipher uint16) string {
	t.Helper()
	g := fmt.Sprint(generation)
	return fmt.Sprintf("%s %02x%064x %d %s %s %04x %v %v\n", label, tepByte, 5, generation,
		hex.EncodeToString(trafficKey(t, "ab"+g, cipher)), hex.EncodeToString(trafficKey(t, "ba"+g, cipher)), cipher, w.a, w.b)
}

// shown expects each field to have just these values, over all packets.
func shown(t *testing.T, o tshark.Options, file string, want map[string]string) {
	t.Helper()
	fields := make([]string, 0, len(want))
	for f := range want {
		fields = append(fields, f)
	}
	for _, two := range []bool{false, true} {
		o.TwoPass = two
		got := make(map[string][]string)
		for _, p := range o.Fields(t, file, fields...) {
			for f, v := range p {
				got[f] = append(got[f], v...)
			}
		}
		for f, w := range want {
			if g := strings.Join(got[f], " "); g != w {
				t.Errorf("two passes: %v: %s is %q, want %q", two, f, g, w)
			}
		}
	}
}

// TestDissectorCiphers decrypts what crypto/aes and x/crypto have sealed.
func TestDissectorCiphers(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	text := func(b []byte) string {
		if len(b) == 0 {
			return "-"
		}
		return hex.EncodeToString(b)
	}
	var vectors strings.Builder
	n := 0
	for _, id := range []uint16{CipherAES128GCM, CipherAES256GCM, CipherChaCha20Poly1305} {
		for _, size := range []int{0, 1, 15, 16, 17, 63, 64, 65, 127, 1000, 16384} {
			key := random(map[uint16]int{CipherAES128GCM: 16, CipherAES256GCM: 32, CipherChaCha20Poly1305: 32}[id])
			var aead cipher.AEAD
			var err error
			if id == CipherChaCha20Poly1305 {
				aead, err = chacha20poly1305.New(key)
			} else if block, e := aes.NewCipher(key); e == nil {
				aead, err = cipher.NewGCM(block)
			}
			if err != nil {
				t.Fatal(err)
			}
			nonce, head, plain := random(12), random(3+size%20), random(size)
			fmt.Fprintf(&vectors, "%04x %s %s %s %s %s\n", id, text(key), text(nonce), text(head), text(aead.Seal(nil, nonce, plain, head)), text(plain))
			n++
		}
	}
	// Poly1305 where the sum is about 2^130 - 5: RFC 8439, Appendix A.3, has such by hand; here all ones do it.
	script := `
local aead = dofile([[` + filepath.Join(filepath.Dir(tshark.Script()), "innertun", "aead.lua") + `]])
local function un(h) return h == "-" and "" or (h:gsub("..", function(x) return string.char(tonumber(x, 16)) end)) end
for line in io.lines([[` + writeFile(t, []byte(vectors.String())) + `]]) do
  local id, k, n, head, sealed, plain = line:match("^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
  local key = aead.new(tonumber(id, 16), un(k))
  local good = aead.open(key, un(n), un(head), un(sealed)) == un(plain)
  local bad = false
  for _, at in ipairs({ 1, #un(sealed) }) do
    local s = un(sealed)
    s = s:sub(1, at - 1) .. string.char((s:byte(at) + 1) % 256) .. s:sub(at + 1)
    bad = bad or aead.open(key, un(n), un(head), s) ~= nil
  end
  bad = bad or aead.open(key, un(n), un(head) .. "x", un(sealed)) ~= nil or aead.open(key, un(n), un(head), un(sealed):sub(1, 15)) ~= nil
  print("vector", id, #un(plain), good, bad)
end
print("wrong key length", aead.new(1, "short"), aead.new(99, ("k"):rep(16)))
`
	out := tshark.Options{Script: writeFile(t, []byte(script))}.Text(t, newWorld(false).file(t))
	if got := strings.Count(out, "vector\t"); got != n || strings.Count(out, "true\tfalse\n") != n || !strings.Contains(out, "wrong key length\tnil\tnil") {
		t.Errorf("%d vectors of %d:\n%s", got, n, out)
	}
}

// TestDissectorENO shows options of all shapes.
func TestDissectorENO(t *testing.T) {
	w := newWorld(false)
	resume := append([]byte{69, 21, 0x02, 0x80 | 0x23}, bytes.Repeat([]byte{7}, 9)...)
	resume = append(resume, bytes.Repeat([]byte{8}, 8)...)
	w.send(AtoB, SYN, []byte{69, 9, 0x00, 0x81, 0xa0, 'I', 'S', 0x21, 0x23}, nil)
	w.send(BtoA, SYN|ACK, []byte{69, 8, 0x03, 0x81, 0xa0, 'I', 'S', 0x23}, nil)
	w.send(AtoB, ACK, ackENO, nil)
	w2 := *w
	w2.a, w2.packets = w.b, w.packets
	w2.b = w.a
	for _, option := range [][]byte{resume, {69, 4, 0x83, 0xa3}, {69, 5, 0x01, 0x1c, 0x23}} {
		w2.seqA += 1000
		w2.send(AtoB, SYN, option, nil)
	}
	w2.send(AtoB, ACK, []byte{69, 3, 0x23}, nil)
	file := w2.file(t)
	shown(t, tshark.Options{}, file, map[string]string{
		"innertun.eno.form":         "SYN SYN non-SYN SYN SYN SYN non-SYN",
		"innertun.eno.global":       "0x00 0x03 0x02 0x01 0x1c",
		"innertun.eno.global.a":     "0 1 1 0 0",
		"innertun.eno.global.b":     "0 1 0 1 0",
		"innertun.eno.global.z":     "0x00 0x00 0x00 0x00 0x07",
		"innertun.eno.length":       "2 2",
		"innertun.eno.tep":          "0x20 0x21 0x23 0x20 0x23 0x23 0x23",
		"innertun.eno.v":            "1 0 0 1 0 1 0",
		"innertun.eno.mark":         "1 1",
		"innertun.eno.resume.id":    "070707070707070707",
		"innertun.eno.resume.nonce": "0808080808080808",
		"innertun.eno.contents":     "23",
		"tcpcrypt.tep":              "0x23",
	})
	text := tshark.Options{}.Text(t, file, "-V")
	for _, want := range []string{"ENO Inner Space mark,p256,curve25519", "length byte 0x83 is not followed by a TEP with v = 1 and 4 octets",
		"a second global suboption, which is to be ignored", "reserved bits set in global suboption 0x1c", "non-SYN-form ENO option with contents"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in what tshark shows", want)
		}
	}
}

// TestDissectorFrames has frames over several segments, out of order, sent twice, with new keys, FINp and URGp.
func TestDissectorFrames(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, id := range []uint16{CipherAES128GCM, CipherAES256GCM, CipherChaCha20Poly1305} {
			w := newWorld(v6)
			w.handshake()
			first, second := init1(1, 2, 16), init2(id)
			w.send(AtoB, ACK, ackENO, first[:30])
			w.send(AtoB, ACK|PSH, ackENO, first[30:])
			w.send(BtoA, ACK|PSH, nil, second)
			a := &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id), offset: uint64(len(first))}
			b := &sealer{t: t, cipher: id, key: trafficKey(t, "ba0", id), offset: uint64(len(second))}
			one := a.frame(0, 0, []byte("first words"))
			two := a.frame(0, 2, append([]byte{0, 5}, "urgent words"...))
			w.send(AtoB, ACK, nil, slices.Concat(one, two[:2]))
			// The rest of the second frame is sent in three segments: 3, 1, 2, and 1 again.
			rest, seq := two[2:], w.seqA
			w.put(AtoB, ACK, seq+20, w.seqB, nil, rest[20:])
			w.put(AtoB, ACK, seq, w.seqB, nil, rest[:10])
			w.put(AtoB, ACK, seq+5, w.seqB, nil, rest[5:20])
			w.put(AtoB, ACK, seq, w.seqB, nil, rest[:10])
			w.seqA += uint32(len(rest))
			a.key = trafficKey(t, "ab1", id)
			w.send(AtoB, ACK, nil, a.frame(1, 0, []byte("new keys")))
			w.send(AtoB, ACK|FIN, nil, a.frame(0, 1, nil))
			w.send(BtoA, ACK, nil, b.frame(0, 0, []byte("answer")))
			log := writeFile(t, []byte(line(t, w, 0x23, "TCPCRYPT", 0, id)+line(t, w, 0x23, "TCPCRYPT", 1, id)))
			shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
				"tcpcrypt.init":             "1 2",
				"tcpcrypt.init.cipher":      fmt.Sprintf("0x0001 0x0002 0x0010 0x%04x", id),
				"tcpcrypt.init.len":         fmt.Sprint(len(first), " ", len(second)),
				"tcpcrypt.init.nonce":       strings.Repeat("aa", 32) + " " + strings.Repeat("bb", 32),
				"tcpcrypt.init.pubkey":      strings.Repeat("aa", 32) + " " + strings.Repeat("bb", 32),
				"tcpcrypt.frame":            "1 2 3 4 1",
				"tcpcrypt.frame.offset":     fmt.Sprint(len(first), len(first)+len(one), len(first)+len(one)+len(two), int(a.offset)-20, len(second)),
				"tcpcrypt.frame.rekey":      "0 0 1 0 0",
				"tcpcrypt.frame.generation": "0 0 1 1 0",
				"tcpcrypt.decrypted":        "1 1 1 1 1",
				"tcpcrypt.flags.fin":        "0 0 0 1 0",
				"tcpcrypt.flags.urg":        "0 1 0 0 0",
				"tcpcrypt.urgent":           "5",
				"tcpcrypt.data": hexOf("first words") + " " + hexOf("urgent words") + " " + hexOf("new keys") + " " +
					hexOf("answer"),
				"tcpcrypt.error": "", "tcpcrypt.unauthentic": "",
			})
		}
	}
}

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }

// TestDissectorTrouble has a frame that was tampered with, octets that the capture lacks, and plain TCP after ENO.
func TestDissectorTrouble(t *testing.T) {
	id := uint16(CipherAES128GCM)
	start := func() (*world, *sealer) {
		w := newWorld(false)
		w.handshake()
		w.send(AtoB, ACK|PSH, ackENO, init1(1))
		w.send(BtoA, ACK|PSH, nil, init2(1))
		return w, &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id), offset: uint64(len(init1(1)))}
	}
	w, a := start()
	log := writeFile(t, []byte("# a remark\n"+line(t, w, 0x23, "TCPCRYPT", 0, id)))
	w.send(AtoB, ACK, nil, a.frame(0, 0, []byte("good")))
	bad := a.frame(0, 0, []byte("bad"))
	bad[8] ^= 1
	w.send(AtoB, ACK, nil, bad)
	w.send(AtoB, ACK, nil, a.frame(1, 0, []byte("no keys")))
	shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
		"tcpcrypt.frame": "1 2 3", "tcpcrypt.decrypted": "1 0 0", "tcpcrypt.unauthentic": "1", "tcpcrypt.data": hexOf("good"),
	})

	// Another host's keys for the same addresses do not fit; keys for other addresses may (behind a NAT).
	for name, c := range map[string]struct{ log, data string }{
		"other keys":      {strings.Replace(line(t, w, 0x23, "TCPCRYPT", 0, id), hex.EncodeToString(a.key), strings.Repeat("ab", 28), 1), ""},
		"other addresses": {strings.ReplaceAll(line(t, w, 0x23, "TCPCRYPT", 0, id), "198.18.1.2", "198.18.99.9"), hexOf("good")},
		"other TEP":       {line(t, w, 0x24, "TCPCRYPT", 0, id), ""},
	} {
		t.Run(name, func(t *testing.T) {
			shown(t, tshark.Options{KeyLog: writeFile(t, []byte(c.log))}, w.file(t), map[string]string{"tcpcrypt.data": c.data, "tcpcrypt.frame": "1 2 3"})
		})
	}

	w, a = start()
	w.send(AtoB, ACK, nil, a.frame(0, 0, []byte("seen")))
	w.seqA += uint32(len(a.frame(0, 0, []byte("not captured"))))
	w.send(AtoB, ACK, nil, a.frame(0, 0, []byte("after the hole")))
	shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{"tcpcrypt.frame": "1", "tcpcrypt.data": hexOf("seen")})

	w = newWorld(false)
	w.send(AtoB, SYN, synENO, nil)
	w.send(BtoA, SYN|ACK, synAckENO, nil)
	w.send(AtoB, ACK, nil, nil) // without ENO
	w.send(AtoB, ACK|PSH, nil, []byte("GET / HTTP/1.0\r\n\r\n"))
	w.send(BtoA, ACK|PSH, nil, []byte("HTTP/1.0 204 No Content\r\n\r\n"))
	shown(t, tshark.Options{}, w.file(t), map[string]string{
		"tcpcrypt.warning": "1", "tcpcrypt.error": "", "tcpcrypt.frame": "", "http.response.code": "204",
	})
}

// TestDissectorResumed has no Init messages; host A of the first session may be either.
func TestDissectorResumed(t *testing.T) {
	id := uint16(CipherChaCha20Poly1305)
	for _, swapped := range []bool{false, true} {
		w := newWorld(true)
		half := bytes.Repeat([]byte{9}, 17)
		w.send(AtoB, SYN, slices.Concat([]byte{69, 21, 0x21, 0xa3 + 0}, half), nil)
		w.send(BtoA, SYN|ACK, slices.Concat([]byte{69, 21, 0x01, 0xa3}, half), nil)
		w.send(AtoB, ACK, ackENO, nil)
		a := &sealer{t: t, cipher: id, key: trafficKey(t, map[bool]string{false: "ab0", true: "ba0"}[swapped], id)}
		b := &sealer{t: t, cipher: id, key: trafficKey(t, map[bool]string{false: "ba0", true: "ab0"}[swapped], id)}
		w.send(AtoB, ACK, ackENO, a.frame(0, 0, []byte("again")))
		w.send(BtoA, ACK, nil, b.frame(0, 0, []byte("yes")))
		text := line(t, w, 0xa3, "TCPCRYPT", 0, id)
		if swapped { // host A of a line is the end that seals with k_ab
			text = strings.Replace(text, fmt.Sprint(w.a, " ", w.b), fmt.Sprint(w.b, " ", w.a), 1)
		}
		shown(t, tshark.Options{KeyLog: writeFile(t, []byte(text))}, w.file(t), map[string]string{
			"tcpcrypt.init": "", "tcpcrypt.frame.offset": "0 0", "tcpcrypt.data": hexOf("again") + " " + hexOf("yes"),
			"tcpcrypt.resumed": "1 1 1", "tcpcrypt.error": "", "tcpcrypt.unauthentic": "",
		})
	}
}

// inSpace is the TCP Data of an upgraded SYN.
func inSpace(prefix, suffix, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x1e5a9c71)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(prefix)+len(suffix))|2) // words, shifted by two: octets
	b = binary.BigEndian.AppendUint16(b, 0xc3a7)
	b = binary.BigEndian.AppendUint16(b, uint16(len(prefix)))
	return slices.Concat(b, prefix, suffix, payload)
}

// unit is one of the later stream.
func unit(options, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(payload)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(options))|1)
	return slices.Concat(b, options, payload)
}

// words pads options to four octets.
func words(options ...[]byte) []byte {
	b := slices.Concat(options...)
	for len(b)%4 != 0 {
		b = append(b, 1)
	}
	return b
}

func experiment(id uint16, data []byte) []byte {
	return slices.Concat(binary.BigEndian.AppendUint16([]byte{253, byte(4 + len(data))}, id), data)
}

// TestDissectorInnerSpace has upgraded SYNs, with and without encryption, and units inside and outside of frames.
func TestDissectorInnerSpace(t *testing.T) {
	id := uint16(CipherAES256GCM)
	t.Run("plain", func(t *testing.T) {
		w := newWorld(false)
		w.send(AtoB, SYN, nil, inSpace(words([]byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8}), words(experiment(0x1234, []byte("mine"))), []byte("hello")))
		w.send(BtoA, SYN|ACK, nil, inSpace(nil, words(experiment(0x1235, nil)), nil))
		u := unit(words(experiment(0xbeef, []byte("inner"))), []byte("payload"))
		w.send(AtoB, ACK, nil, slices.Concat(unit(nil, nil), u[:9]))
		w.send(AtoB, ACK, nil, u[9:])
		w.send(BtoA, ACK, nil, []byte{0, 0, 0, 3}) // Len is 3
		shown(t, tshark.Options{}, w.file(t), map[string]string{
			"innertun.syn": "1 1", "innertun.is.sps": "5 0 0 7", "innertun.is.inoo": "5 1 0 3", "innertun.is.soo": "3 0",
			"innertun.is.len": "2 2 1 1", "innertun.option.kind": "8 253 253 253", "innertun.option.exid": "0x1234 0x1235 0xbeef",
			"innertun.is.payload": hexOf("hello") + " " + hexOf("payload"), "innertun.is.unit": fmt.Sprint(4, len(u)), "tcpcrypt.error": "1",
		})
	})
	t.Run("magic by chance", func(t *testing.T) {
		w := newWorld(false)
		w.send(AtoB, SYN, nil, append(inSpace(nil, nil, []byte("x")), 0)) // the lengths do not hold
		shown(t, tshark.Options{}, w.file(t), map[string]string{"innertun.syn": ""})
	})
	t.Run("encrypted", func(t *testing.T) {
		w := newWorld(false)
		w.send(AtoB, SYN, nil, inSpace(nil, words(synENO, experiment(0x4901, init1(2))), nil))
		w.send(BtoA, SYN|ACK, nil, inSpace(nil, words(synAckENO, experiment(0x4902, init2(id))), nil))
		a := &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id)}
		u := unit(words(experiment(0xbeef, nil)), []byte("in two frames"))
		w.send(AtoB, ACK, nil, slices.Concat(a.frame(0, 0, u[:7]), a.frame(0, 0, u[7:])))
		log := writeFile(t, []byte(line(t, w, 0x23, "TCPCRYPT", 0, id)))
		shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
			"innertun.syn": "1 1", "tcpcrypt.init": "1 2", "tcpcrypt.frame.offset": "0 " + fmt.Sprint(20+7), "innertun.is.sps": "0 0 13",
			"innertun.is.payload": hexOf("in two frames"), "tcpcrypt.decrypted": "1 1", "innertun.eno.tep": "0x21 0x23 0x23", "tcpcrypt.error": "",
		})
	})
	t.Run("marks", func(t *testing.T) {
		w := newWorld(false)
		w.send(AtoB, SYN, []byte{69, 7, 0x81, 0xa0, 'I', 'S', 0x23}, nil)
		w.send(BtoA, SYN|ACK, []byte{69, 8, 0x01, 0x81, 0xa0, 'I', 'S', 0x23}, nil)
		w.send(AtoB, ACK|PSH, ackENO, init1(2))
		w.send(BtoA, ACK|PSH, nil, init2(id))
		a := &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id), offset: uint64(len(init1(2)))}
		w.send(AtoB, ACK, nil, a.frame(0, 0, unit(words(experiment(0xbeef, nil)), []byte("secret"))))
		log := writeFile(t, []byte(line(t, w, 0x23, "TCPCRYPT", 0, id)))
		shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
			"innertun.option.exid": "0xbeef", "innertun.is.payload": hexOf("secret"), "tcpcrypt.tep": "0x23 0x23 0x23 0x23",
		})
	})
}

// TestDissectorHello has what two hosts with identities tell each other first, and a reset with a proof.
func TestDissectorHello(t *testing.T) {
	id := uint16(CipherAES128GCM)
	w := newWorld(false)
	w.send(AtoB, SYN, []byte{69, 4, 0x02, 0x23}, nil)
	w.send(BtoA, SYN|ACK, []byte{69, 4, 0x03, 0x23}, nil)
	w.send(AtoB, ACK|PSH, ackENO, init1(1))
	w.send(BtoA, ACK|PSH, nil, init2(1))
	items := slices.Concat([]byte{1, 0, 4, 0, 0, 0, 1, 2, 0, 96}, bytes.Repeat([]byte{0xcc}, 32), bytes.Repeat([]byte{0xdd}, 64), []byte{77, 0, 1, 5})
	hello := slices.Concat([]byte("ITH1"), binary.BigEndian.AppendUint16(nil, uint16(len(items))), items)
	a := &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id), offset: uint64(len(init1(1)))}
	w.send(AtoB, ACK, nil, a.frame(0, 0, hello))
	mac := bytes.Repeat([]byte{0xee}, 16)
	w.send(AtoB, RST|ACK, experiment(0x4954, mac), nil)
	log := writeFile(t, []byte(line(t, w, 0x23, "TCPCRYPT", 0, id)))
	shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
		"innertun.hello": hex.EncodeToString(hello), "innertun.hello.type": "1 2 77", "innertun.hello.resets": "1",
		"innertun.hello.key": strings.Repeat("cc", 32), "innertun.hello.signature": strings.Repeat("dd", 64), "innertun.hello.value": "05",
		"innertun.rst.mac": hex.EncodeToString(mac), "tcpcrypt.error": "",
	})
}

// TestDissectorMidway has a capture that begins after the SYNs, and the same ports used twice.
func TestDissectorMidway(t *testing.T) {
	id := uint16(CipherAES128GCM)
	w := newWorld(false)
	w.send(AtoB, ACK|PSH, ackENO, init1(1))
	w.send(BtoA, ACK|PSH, nil, init2(1))
	a := &sealer{t: t, cipher: id, key: trafficKey(t, "ab0", id), offset: uint64(len(init1(1)))}
	w.send(AtoB, ACK, nil, a.frame(0, 0, []byte("midway")))
	w.seqA, w.seqB = 5_000_000, 9_000_000
	w.handshake()
	w.send(AtoB, ACK|PSH, ackENO, init1(1))
	w.send(BtoA, ACK|PSH, nil, init2(1))
	a.offset = uint64(len(init1(1)))
	w.send(AtoB, ACK, nil, a.frame(0, 0, []byte("anew")))
	log := writeFile(t, []byte(line(t, w, 0x23, "TCPCRYPT", 0, id)))
	shown(t, tshark.Options{KeyLog: log}, w.file(t), map[string]string{
		"tcpcrypt.init": "1 2 1 2", "tcpcrypt.data": hexOf("midway") + " " + hexOf("anew"), "tcpcrypt.error": "",
	})
}

// TestDissectorCaptures has captures of this program's own, of three connections each, with 300 octets there and back:
// one with the mark, then two upgraded ones; and with sessions resumed, the second in an upgraded SYN, the third without.
func TestDissectorCaptures(t *testing.T) {
	octets := hexOf(strings.Repeat("there and back ", 20))
	for name, want := range map[string]struct{ syns, inits, exids string }{
		"upgraded": {"1 1 1 1", "1 2 1 2 1 2", "0x4960 0x4960 0x4960 0x4960"},
		"resumed":  {"1 1", "1 2", ""},
	} {
		file := filepath.Join("testdata", "captures", name)
		shown(t, tshark.Options{KeyLog: file + ".keys"}, file+".pcap", map[string]string{
			"innertun.syn": want.syns, "tcpcrypt.init": want.inits, "innertun.option.exid": want.exids,
			"innertun.is.payload": strings.TrimSpace(strings.Repeat(octets+" ", 6)), "tcpcrypt.decrypted": strings.TrimSpace(strings.Repeat("1 ", 12)),
			"tcpcrypt.error": "", "tcpcrypt.warning": "", "tcpcrypt.unauthentic": "",
		})
	}
}
