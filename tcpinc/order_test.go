package tcpinc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// The lists of one connection, on the wire: the client's in its SYN, least preferred first, and in its Init1, most
// preferred first; the server's choice is the first of its own lists.
func TestOrderOfOneConnection(t *testing.T) {
	var (
		c25519, c448, p256, p521 = tcpcrypt.Curve25519, tcpcrypt.Curve448, tcpcrypt.P256, tcpcrypt.P521
		gcm128, gcm256, chacha   = tcpcrypt.AES128GCM, tcpcrypt.AES256GCM, tcpcrypt.ChaCha20Poly1305
	)
	client := tcpinc.Config{TEPs: []eno.TEP{c25519, c448, p256}, Ciphers: []tcpcrypt.Cipher{gcm128, gcm256}}
	for _, v := range []struct {
		name   string
		server tcpinc.Config
		own    tcpinc.DialOptions
		syn    []byte
		list   []uint16
		synAck []byte
		picked tcpcrypt.Cipher
	}{
		{name: "Config's", syn: []byte{69, 5, 0x21, 0x24, 0x23}, list: []uint16{1, 2}, synAck: []byte{69, 4, 1, 0x23}, picked: gcm128},
		{name: "one of its own", own: tcpinc.DialOptions{TEPs: []eno.TEP{p521}, Ciphers: []tcpcrypt.Cipher{chacha}},
			syn: []byte{69, 3, 0x22}, list: []uint16{16}, synAck: []byte{69, 4, 1, 0x22}, picked: chacha},
		{name: "another order", own: tcpinc.DialOptions{TEPs: []eno.TEP{p256, c25519}, Ciphers: []tcpcrypt.Cipher{chacha, gcm128}},
			syn: []byte{69, 4, 0x23, 0x21}, list: []uint16{16, 1}, synAck: []byte{69, 4, 1, 0x23}, picked: gcm128},
		{name: "TEPs alone", own: tcpinc.DialOptions{TEPs: []eno.TEP{c448}},
			syn: []byte{69, 3, 0x24}, list: []uint16{1, 2}, synAck: []byte{69, 4, 1, 0x24}, picked: gcm128},
		{name: "ciphers alone", own: tcpinc.DialOptions{Ciphers: []tcpcrypt.Cipher{gcm256}},
			syn: []byte{69, 5, 0x21, 0x24, 0x23}, list: []uint16{2}, synAck: []byte{69, 4, 1, 0x23}, picked: gcm256},
		{name: "the server's word counts", server: tcpinc.Config{TEPs: []eno.TEP{p521, p256, c25519}, Ciphers: []tcpcrypt.Cipher{chacha, gcm256, gcm128}},
			own: tcpinc.DialOptions{TEPs: []eno.TEP{c25519, p256}, Ciphers: []tcpcrypt.Cipher{gcm128, gcm256}},
			syn: []byte{69, 4, 0x21, 0x23}, list: []uint16{1, 2}, synAck: []byte{69, 4, 1, 0x21}, picked: gcm256},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, client, v.server, tcpinc.Require)
				defer w.host.close()
				var stream []byte
				w.client = func(_ int, a *crypttest.End) {
					a.Tap = func(_ uint64, p []byte) { stream = append(stream, p...) }
				}
				v.own.Policy = tcpinc.Require
				c, err := w.d.Dial(context.Background(), netip.Addr{}, server, v.own)
				s := isEncrypted(t, c, err)
				if got := w.sent[0].options; !bytes.Equal(got, v.syn) {
					t.Errorf("SYN % x, want % x", got, v.syn)
				}
				if got := w.sent[1].options; !bytes.Equal(got, v.synAck) {
					t.Errorf("SYN-ACK % x, want % x", got, v.synAck)
				}
				if got := init1Ciphers(t, stream); !slices.Equal(got, v.list) {
					t.Errorf("Init1 lists %x, want %x", got, v.list)
				}
				if s.Cipher != v.picked || byte(s.TEP) != v.synAck[3] {
					t.Errorf("%v with %v", s.TEP, s.Cipher)
				}
			})
		})
	}
}

// init1Ciphers reads the list of ciphers at its place. RFC 8548, Section 4.1.
func init1Ciphers(t *testing.T, stream []byte) (list []uint16) {
	t.Helper()
	if len(stream) < 9 || binary.BigEndian.Uint32(stream) != 0x15101a0e || len(stream) < 9+2*int(stream[8]) {
		t.Fatalf("no Init1: % x", stream)
	}
	for i := range int(stream[8]) {
		list = append(list, binary.BigEndian.Uint16(stream[9+2*i:]))
	}
	return list
}

// What could never be used is an error before anything is sent, and one connection's lists leave the next one's alone.
func TestOrderRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Require)
		defer w.host.close()
		for _, v := range []struct {
			name string
			o    tcpinc.DialOptions
			err  error
		}{
			{"no TEP", tcpinc.DialOptions{TEPs: []eno.TEP{}}, eno.ErrConfig},
			{"TEP of something else", tcpinc.DialOptions{TEPs: []eno.TEP{0x30}}, eno.ErrConfig},
			{"TEP twice", tcpinc.DialOptions{TEPs: []eno.TEP{tcpcrypt.P256, tcpcrypt.P256}}, eno.ErrConfig},
			{"no cipher", tcpinc.DialOptions{Ciphers: []tcpcrypt.Cipher{}}, tcpcrypt.ErrConfig},
			{"unknown cipher", tcpinc.DialOptions{Ciphers: []tcpcrypt.Cipher{3}}, tcpcrypt.ErrConfig},
			{"cipher twice", tcpinc.DialOptions{Ciphers: []tcpcrypt.Cipher{1, 1}}, tcpcrypt.ErrConfig},
		} {
			if _, err := w.d.Dial(context.Background(), netip.Addr{}, server, v.o); !errors.Is(err, v.err) {
				t.Errorf("%s: %v", v.name, err)
			}
		}
		if w.dials() != 0 || len(w.sent) != 0 {
			t.Errorf("%d dials, %d segments", w.dials(), len(w.sent))
		}
		if _, err := (tcpinc.Config{Ciphers: []tcpcrypt.Cipher{}}).NewPassive(); !errors.Is(err, tcpcrypt.ErrConfig) {
			t.Errorf("a listener without ciphers: %v", err)
		}
		c, err := w.dial(tcpinc.Require)
		if s := isEncrypted(t, c, err); s.TEP != tcpcrypt.Curve25519 || s.Cipher != tcpcrypt.AES128GCM {
			t.Errorf("%+v", s)
		}
	})
}
