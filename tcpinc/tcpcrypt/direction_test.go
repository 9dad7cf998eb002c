package tcpcrypt

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func sealed(t testing.TB, d *direction, data []byte, rekey, fin bool) []byte {
	t.Helper()
	b := make([]byte, len(data)+frameOverhead)
	copy(b[dataStart:], data)
	if _, err := d.seal(b, len(data), rekey, fin); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrameEveryBitCounts(t *testing.T) {
	for _, c := range Ciphers() {
		frame := sealed(t, testDirection(t, c, wayAB), []byte("data"), false, false)
		for bit := range 8 * len(frame) {
			bad := bytes.Clone(frame)
			bad[bit/8] ^= 1 << (bit % 8)
			if p, err := testDirection(t, c, wayAB).open(bad); !errors.Is(err, ErrIntegrity) {
				t.Errorf("%v, bit %d: %q, %v", c, bit, p.data, err)
			}
		}
		for n := frameHeaderLen; n < len(frame); n++ {
			if _, err := testDirection(t, c, wayAB).open(bytes.Clone(frame[:n])); !errors.Is(err, ErrIntegrity) {
				t.Errorf("%v, prefix of %d: %v", c, n, err)
			}
		}
	}
}

// A frame opens only at its own place, in its own direction and generation.
func TestFrameIsBoundToItsPlace(t *testing.T) {
	frame := sealed(t, testDirection(t, AES128GCM, wayAB), []byte("data"), false, false)
	for name, edit := range map[string]func(*direction){
		"offset":      func(d *direction) { d.offset++ },
		"offset+2^63": func(d *direction) { d.offset ^= 1 << 63 },
		"direction":   func(d *direction) { *d = *testDirection(t, AES128GCM, wayBA) },
		"generation":  func(d *direction) { d.advance() },
		"cipher":      func(d *direction) { *d = *testDirection(t, AES256GCM, wayAB) },
	} {
		d := testDirection(t, AES128GCM, wayAB)
		edit(d)
		if _, err := d.open(bytes.Clone(frame)); !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := testDirection(t, AES128GCM, wayAB)
	if p, err := d.open(bytes.Clone(frame)); err != nil || string(p.data) != "data" || d.offset != 77+uint64(len(frame)) {
		t.Errorf("as it is: %+v, %v, offset %d", p, err, d.offset)
	}
}

func TestFrameHeader(t *testing.T) {
	for clen, good := range map[int]bool{0: false, 16: false, 17: true, 65535: true} {
		var b [frameHeaderLen]byte
		putFrameHeader(b[:], frameHeader{rekey: true, clen: clen})
		b[0] |= 0xfe // reserved bits
		h, err := parseFrameHeader(b[:])
		if good && (err != nil || h != frameHeader{true, clen}) || !good && !errors.Is(err, ErrMalformedFrame) {
			t.Errorf("clen %d: %+v, %v", clen, h, err)
		}
	}
}

func TestPlaintext(t *testing.T) {
	for _, bad := range []string{"", "\x02", "\x02\x00"} {
		if _, err := parsePlaintext([]byte(bad)); !errors.Is(err, ErrMalformedFrame) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	p, err := parsePlaintext([]byte("\xff\x01\x02data"))
	if err != nil || !p.fin || !p.urgent || p.offset != 0x0102 || string(p.data) != "data" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestDirectionLimits(t *testing.T) {
	d := testDirection(t, AES128GCM, wayAB)
	d.offset = math.MaxUint64 - MinFrameLen + 1
	if _, err := d.seal(make([]byte, MinFrameLen), 0, false, false); !errors.Is(err, ErrOffsetOverflow) {
		t.Errorf("seal: %v", err)
	}
	if _, err := d.open(make([]byte, MinFrameLen)); !errors.Is(err, ErrOffsetOverflow) {
		t.Errorf("open: %v", err)
	}
	d.generation = math.MaxUint32
	if err := d.advance(); !errors.Is(err, ErrRekeyOverflow) {
		t.Errorf("advance: %v", err)
	}
}

func TestEraseLeavesNoKeys(t *testing.T) {
	d := testDirection(t, AES128GCM, wayAB)
	d.erase()
	if d.master != (masterKey{}) || d.randomizer != [nonceLen]byte{} || d.nonce != [nonceLen]byte{} || d.aead != nil {
		t.Errorf("left: %+v", d)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(sealed(f, testDirection(f, AES128GCM, wayAB), []byte("data"), false, true), []byte("\x02\x00\x01x"))
	f.Fuzz(func(t *testing.T, frame, content []byte) {
		if len(frame) >= frameHeaderLen {
			if h, err := parseFrameHeader(frame); err == nil && h.clen < flagsLen+tagLen {
				t.Fatalf("accepted clen %d", h.clen)
			}
			valid := sealed(t, testDirection(t, AES128GCM, wayAB), []byte("data"), false, true)
			if _, err := testDirection(t, AES128GCM, wayAB).open(bytes.Clone(frame)); err == nil && !bytes.Equal(frame, valid) {
				t.Fatalf("opened %x", frame)
			}
		}
		p, err := parsePlaintext(content)
		if err == nil && len(p.data) > len(content)-flagsLen {
			t.Fatalf("%x parsed as %+v", content, p)
		}
	})
}
