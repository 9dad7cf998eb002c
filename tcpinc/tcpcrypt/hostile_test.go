package tcpcrypt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// protocolErrors are all that a meddled-with stream may end in.
var protocolErrors = []error{ErrTruncated, ErrIntegrity, ErrMalformedFrame, ErrDataAfterFIN, ErrBadMagic, ErrMalformedInit,
	ErrInitTooLong, ErrBadPublicKey, ErrCipherNotOffered, ErrNoCommonCipher, ErrRekeyOverflow}

func isProtocolError(err error) bool {
	return slices.ContainsFunc(protocolErrors, func(e error) bool { return errors.Is(err, e) })
}

// faceRaw runs a handshake of one role against a peer that sends given octets and then, with fin, FIN. It returns the
// error and what the peer's Read then fails with.
func faceRaw(t *testing.T, role eno.Role, tep eno.TEP, stream []byte, fin bool) (err, atPeer error) {
	t.Helper()
	lower, raw := crypttest.Pipe(crypttest.Options{})
	c, err := New(lower, testConfig(role, tep, AES128GCM))
	if err != nil {
		t.Fatal(err)
	}
	raw.Write(stream)
	if fin {
		raw.CloseWrite()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = c.Handshake(ctx)
	if again := c.Handshake(ctx); again != err {
		t.Errorf("second Handshake: %v, first %v", again, err)
	}
	raw.SetReadDeadline(time.Now().Add(time.Minute))
	_, atPeer = io.Copy(io.Discard, struct{ io.Reader }{raw})
	if err != nil {
		if c.State().Phase != PhaseFailed || c.State().Err == nil {
			t.Errorf("state after %v: %+v", err, c.State())
		}
		if _, readErr := c.Read(make([]byte, 1)); readErr == nil || readErr == io.EOF {
			t.Errorf("Read after a failed handshake: %v", readErr)
		}
		if _, writeErr := c.Write([]byte("x")); writeErr == nil {
			t.Error("Write after a failed handshake succeeded")
		}
	}
	c.Close()
	return err, atPeer
}

func TestHandshakeRefusals(t *testing.T) {
	notOnCurve := make([]byte, 33)
	notOnCurve[0], notOnCurve[32] = 2, 1 // x = 1 has no y on P-256
	prefixed := func(point []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(2+len(point))), point...)
	}
	_, pair, _ := drawKeys(P256, zeroRand{})
	good := pair.appendPublic(nil, nil)
	infinity := make([]byte, 33)
	uncompressed := append([]byte{4}, make([]byte, 64)...)
	order8 := []byte{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00}

	offP521, infinityP521 := make([]byte, 67), make([]byte, 67)
	offP521[0], offP521[66] = 2, 5 // x = 5 has no y on P-521
	_, pairP521, _ := drawKeys(P521, zeroRand{})
	goodP521 := pairP521.appendPublic(nil, nil)
	le448 := func(first, middle byte, rest byte) []byte { // little-endian: the first octet, those up to 2^224, the rest
		b := append([]byte{first}, bytes.Repeat([]byte{middle}, 27)...)
		b = append(b, bytes.Repeat([]byte{rest}, 28)...)
		return b
	}
	minusOne, prime, primeAndOne := le448(0xfe, 0xff, 0xff), le448(0xff, 0xff, 0xff), le448(0, 0, 0xff)
	minusOne[28], prime[28] = 0xfe, 0xfe // p = 2^448 - 2^224 - 1

	keys := []struct {
		name   string
		tep    eno.TEP
		public []byte
		want   error
	}{
		{"x25519 zero", Curve25519, make([]byte, 32), ErrBadPublicKey},
		{"x25519 of order 8", Curve25519, order8, ErrBadPublicKey},
		{"x25519 short", Curve25519, make([]byte, 31), ErrMalformedInit},
		{"p256 off the curve", P256, prefixed(notOnCurve), ErrBadPublicKey},
		{"p256 infinity", P256, prefixed(infinity), ErrBadPublicKey},
		{"p256 infinity, one octet", P256, prefixed([]byte{0}), ErrBadPublicKey},
		{"p256 uncompressed", P256, prefixed(uncompressed), ErrBadPublicKey},
		{"p256 x too large", P256, prefixed(bytes.Repeat([]byte{2}, 1)), ErrBadPublicKey},
		{"p256 x above p", P256, prefixed(append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)), ErrBadPublicKey},
		{"p256 of 32 octets", P256, append([]byte{0, 34}, good[2:34]...), ErrBadPublicKey},
		{"p256 length beyond", P256, append([]byte{0, 36}, good[2:]...), ErrMalformedInit},
		{"p256 length 1", P256, append([]byte{0, 1}, good[2:]...), ErrMalformedInit},
		{"p256 key of p521", P256, goodP521, ErrBadPublicKey},
		{"p521 off the curve", P521, prefixed(offP521), ErrBadPublicKey},
		{"p521 infinity", P521, prefixed(infinityP521), ErrBadPublicKey},
		{"p521 infinity, one octet", P521, prefixed([]byte{0}), ErrBadPublicKey},
		{"p521 uncompressed", P521, prefixed(append([]byte{4}, make([]byte, 132)...)), ErrBadPublicKey},
		{"p521 hybrid", P521, prefixed(append([]byte{6}, goodP521[3:]...)), ErrBadPublicKey},
		{"p521 x is p", P521, prefixed(append([]byte{2, 1}, bytes.Repeat([]byte{0xff}, 65)...)), ErrBadPublicKey},
		{"p521 x above 521 bits", P521, prefixed(append([]byte{2, 3}, goodP521[4:]...)), ErrBadPublicKey},
		{"p521 of 66 octets", P521, append([]byte{0, 68}, goodP521[2:68]...), ErrBadPublicKey},
		{"p521 length beyond", P521, append([]byte{0, 70}, goodP521[2:]...), ErrMalformedInit},
		{"p521 key of p256", P521, good, ErrBadPublicKey},
		{"x448 zero", Curve448, make([]byte, 56), ErrBadPublicKey},
		{"x448 one", Curve448, le448(1, 0, 0), ErrBadPublicKey},
		{"x448 minus one", Curve448, minusOne, ErrBadPublicKey},
		{"x448 p, which is zero", Curve448, prime, ErrBadPublicKey},
		{"x448 p+1, which is one", Curve448, primeAndOne, ErrBadPublicKey},
		{"x448 short", Curve448, make([]byte, 55), ErrMalformedInit},
	}
	for _, k := range keys {
		t.Run(k.name, func(t *testing.T) {
			init2 := AppendInit2(nil, Init2{Cipher: AES128GCM, Public: k.public})
			init1 := AppendInit1(nil, Init1{Ciphers: []Cipher{AES128GCM}, Public: k.public})
			for role, stream := range map[eno.Role][]byte{eno.RoleA: init2, eno.RoleB: init1} {
				err, atPeer := faceRaw(t, role, k.tep, stream, false)
				if !errors.Is(err, k.want) || !errors.Is(atPeer, syscall.ECONNRESET) {
					t.Errorf("host %v: %v; the peer saw %v", role, err, atPeer)
				}
			}
		})
	}

	long := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, Init1Magic), 1<<31)
	init2 := AppendInit2(nil, Init2{Cipher: AES256GCM, Public: make([]byte, 32)})
	for _, r := range []struct {
		name   string
		role   eno.Role
		stream []byte
		fin    bool
		want   error
	}{
		{"not offered", eno.RoleA, init2, false, ErrCipherNotOffered},
		{"none in common", eno.RoleB, AppendInit1(nil, Init1{Ciphers: []Cipher{AES256GCM, 9}, Public: make([]byte, 32)}), false, ErrNoCommonCipher},
		{"no ciphers", eno.RoleB, AppendInit1(nil, Init1{Public: make([]byte, 32)}), false, ErrNoCommonCipher},
		{"too long", eno.RoleB, long, false, ErrInitTooLong},
		{"plain text", eno.RoleB, []byte("GET / HTTP/1.1\r\n"), false, ErrBadMagic},
		{"plain text to A", eno.RoleA, []byte("2"), false, ErrBadMagic},
		{"nothing", eno.RoleA, nil, true, ErrTruncated},
		{"cut off", eno.RoleA, init2[:len(init2)-1], true, ErrTruncated},
	} {
		t.Run(r.name, func(t *testing.T) {
			err, atPeer := faceRaw(t, r.role, Curve25519, r.stream, r.fin)
			if !errors.Is(err, r.want) || !errors.Is(atPeer, syscall.ECONNRESET) {
				t.Errorf("%v; the peer saw %v", err, atPeer)
			}
		})
	}
}

func TestHandshakeTrickled(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 3, Segment: func(int) int { return 1 }})
	go func() { a.Write([]byte("x")); a.CloseWrite() }()
	if got, err := io.ReadAll(b); string(got) != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHandshakeContext(t *testing.T) {
	lower, raw := crypttest.Pipe(crypttest.Options{})
	c, _ := New(lower, testConfig(eno.RoleB, Curve25519))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Handshake(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Handshake: %v", err)
	}
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer saw %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestHandshakeReset(t *testing.T) {
	lower, raw := crypttest.Pipe(crypttest.Options{})
	c, _ := New(lower, testConfig(eno.RoleA, Curve25519))
	raw.Abort()
	if err := c.Handshake(t.Context()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Handshake: %v", err)
	}
}

// A Read that was waiting for the handshake finds it failed: what the peer sent in place of frames is not looked at.
func TestReadAfterFailedHandshake(t *testing.T) {
	lower, _ := crypttest.Pipe(crypttest.Options{})
	c, err := New(lower, testConfig(eno.RoleB, Curve25519))
	if err != nil {
		t.Fatal(err)
	}
	c.handshake.started.Store(true)
	c.in.mu.Lock() // as the handshake does
	c.in.buf = getBuffer(MaxInitLen)
	frame := make([]byte, MinFrameLen)
	putFrameHeader(frame, frameHeader{rekey: true, clen: MinFrameLen - frameHeaderLen})
	c.in.w = copy(c.in.buf.b, frame)
	c.fail(ErrBadPublicKey)
	c.in.mu.Unlock()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, ErrBadPublicKey) {
		t.Errorf("Read: %d, %v", n, err)
	}
}

// recording is what two hosts with fixed keys say to each other.
type recording struct {
	toB  []byte // what A put on the wire
	data []byte // what A sent in it
	rand func(role eno.Role) io.Reader
}

func record(t *testing.T) recording {
	t.Helper()
	v := readVectors(t)[0]
	r := recording{rand: func(role eno.Role) io.Reader {
		if role == eno.RoleA {
			return v.randA()
		}
		return v.randB()
	}}
	la, lb := crypttest.Pipe(crypttest.Options{})
	la.Tap = func(_ uint64, p []byte) { r.toB = append(r.toB, p...) }
	a, b := newConns(t, la, lb, r.config(eno.RoleA), r.config(eno.RoleB))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	for _, s := range []string{"first", "", "second frame"} {
		a.Write([]byte(s))
		r.data = append(r.data, s...)
	}
	a.Rekey()
	a.Write([]byte("third"))
	a.CloseWrite()
	r.data = append(r.data, "third"...)
	return r
}

func (r recording) config(role eno.Role) Config {
	cfg := testConfig(role, Curve25519, AES128GCM)
	cfg.Rand = r.rand(role)
	return cfg
}

// replay gives stream to host B, in pieces of any size, and returns what it read and how that ended.
func (r recording) replay(t *testing.T, stream []byte, fin bool, segment func(int) int) (got []byte, err, atPeer error) {
	t.Helper()
	lower, raw := crypttest.Pipe(crypttest.Options{Segment: segment})
	b, newErr := New(lower, r.config(eno.RoleB))
	if newErr != nil {
		t.Fatal(newErr)
	}
	defer b.Close()
	raw.Write(stream)
	if fin {
		raw.CloseWrite()
	} else {
		lower.SetReadDeadline(time.Now().Add(time.Minute))
	}
	if err = b.Handshake(t.Context()); err == nil {
		got, err = io.ReadAll(b)
		if err == nil {
			err = io.EOF
		}
	}
	raw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, atPeer = io.Copy(io.Discard, struct{ io.Reader }{raw})
	return got, err, atPeer
}

func TestReplayIsClean(t *testing.T) {
	r := record(t)
	if got, err, _ := r.replay(t, r.toB, true, nil); err != io.EOF || !bytes.Equal(got, r.data) {
		t.Fatalf("%q, %v", got, err)
	}
}

// A stream that ends anywhere before its last octet is never a clean end.
func TestTruncatedAnywhere(t *testing.T) {
	r := record(t)
	for n := range r.toB {
		got, err, atPeer := r.replay(t, r.toB[:n], true, nil)
		if !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
		if !bytes.HasPrefix(r.data, got) {
			t.Errorf("cut at %d: wrong data %q", n, got)
		}
		if !errors.Is(atPeer, syscall.ECONNRESET) {
			t.Errorf("cut at %d: the peer saw %v", n, atPeer)
		}
	}
}

// An octet altered anywhere gives a typed error, never a clean end, never wrong data. What of an Init message does not
// matter to the fields is in the transcript of keys, so nothing opens.
func TestAlteredAnywhere(t *testing.T) {
	r := record(t)
	for i := range r.toB {
		for _, bit := range []byte{0x01, 0x80} {
			bad := bytes.Clone(r.toB)
			bad[i] ^= bit
			got, err, atPeer := r.replay(t, bad, true, nil)
			if !isProtocolError(err) {
				t.Errorf("octet %d, bit %#x: %v", i, bit, err)
			}
			if !bytes.HasPrefix(r.data, got) {
				t.Errorf("octet %d, bit %#x: wrong data %q", i, bit, got)
			}
			if !errors.Is(atPeer, syscall.ECONNRESET) {
				t.Errorf("octet %d, bit %#x: the peer saw %v", i, bit, atPeer)
			}
		}
	}
}

func TestFramesSwappedOrRepeated(t *testing.T) {
	r := record(t)
	init1Len := int(binary.BigEndian.Uint32(r.toB[4:]))
	first := init1Len + frameOverhead + len("first")
	second := first + frameOverhead + len("second frame")
	parts := [][]byte{r.toB[:init1Len], r.toB[init1Len:first], r.toB[first:second], r.toB[second:]}
	for name, order := range map[string][]int{"swapped": {0, 2, 1, 3}, "repeated": {0, 1, 1, 2, 3}, "left out": {0, 1, 3}} {
		var stream []byte
		for _, i := range order {
			stream = append(stream, parts[i]...)
		}
		if got, err, _ := r.replay(t, stream, true, nil); !isProtocolError(err) || !bytes.HasPrefix(r.data, got) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestDataAfterFIN(t *testing.T) {
	r := record(t)
	got, err, atPeer := r.replay(t, append(bytes.Clone(r.toB), 0), true, nil)
	if !errors.Is(err, ErrDataAfterFIN) || !bytes.Equal(got, r.data) || !errors.Is(atPeer, syscall.ECONNRESET) {
		t.Errorf("%q, %v; the peer saw %v", got, err, atPeer)
	}
}

// The end of the stream is the frame with FINp: FIN need not have come.
func TestEndWithoutFIN(t *testing.T) {
	r := record(t)
	if got, err, _ := r.replay(t, r.toB, false, nil); err != io.EOF || !bytes.Equal(got, r.data) {
		t.Errorf("%q, %v", got, err)
	}
}

// What arrived before a reset is delivered, then the errno comes through.
func TestPeerReset(t *testing.T) {
	a, b, _, lb := connect(t, crypttest.Options{})
	a.Write([]byte("x"))
	if n, err := b.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lb.Abort()
	for range 2 {
		if _, err := a.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
			t.Errorf("Read: %v", err)
		}
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write: %v", err)
	}
	if s := a.State(); s.Phase != PhaseFailed || !errors.Is(s.Err, syscall.ECONNRESET) {
		t.Errorf("State: %+v", s)
	}
}

// A failure seen by the reader ends the writer too, even one that is blocked.
func TestFailureUnblocksWriter(t *testing.T) {
	a, _, _, lb := connect(t, crypttest.Options{Capacity: 1000})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := a.Write(make([]byte, 100_000)); !errors.Is(err, ErrIntegrity) {
			t.Errorf("Write: %v", err)
		}
	})
	bad := make([]byte, MinFrameLen)
	putFrameHeader(bad, frameHeader{clen: MinFrameLen - frameHeaderLen})
	lb.Write(bad)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrIntegrity) {
		t.Errorf("Read: %v", err)
	}
	wg.Wait()
	if a.in.dir.aead != nil || a.out.dir.aead != nil || a.out.dir.master != (masterKey{}) {
		t.Error("keys are left after a failure")
	}
}

func TestNewRefuses(t *testing.T) {
	good := testConfig(eno.RoleA, Curve25519)
	for name, edit := range map[string]func(*Config){
		"role":      func(c *Config) { c.Role = 0 },
		"TEP":       func(c *Config) { c.TEP = 0x20 },
		"cipher":    func(c *Config) { c.Ciphers = []Cipher{7} },
		"none":      func(c *Config) { c.Ciphers = []Cipher{} },
		"256":       func(c *Config) { c.Ciphers = slices.Repeat([]Cipher{AES128GCM}, 256) },
		"small":     func(c *Config) { c.MaxFrame = MinFrameLen },
		"too large": func(c *Config) { c.MaxFrame = MaxFrameLen + 1 },
	} {
		cfg := good
		edit(&cfg)
		if _, err := New(nil, cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseCipher("rot13"); !errors.Is(err, ErrConfig) {
		t.Errorf("ParseCipher: %v", err)
	}
	for _, c := range Ciphers() {
		if got, err := ParseCipher(c.String()); got != c || err != nil {
			t.Errorf("ParseCipher(%q) = %v, %v", c, got, err)
		}
	}
}

func TestBrokenRandomness(t *testing.T) {
	for _, tep := range TEPs() {
		for _, octets := range []int{0, 10, 32, 40} { // never io.EOF, which is the end of a stream
			random := bytes.NewReader(make([]byte, octets))
			if _, err := newOffer(tep, Ciphers(), random); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				t.Errorf("TEP %v, %d octets: %v", tep, octets, err)
			}
		}
	}
	for _, tep := range []eno.TEP{P256, P521} {
		ones := bytes.NewReader(bytes.Repeat([]byte{0xff}, 1<<16))
		if _, err := newOffer(tep, Ciphers(), ones); err == nil {
			t.Errorf("TEP %v: no error when every private key is out of range", tep)
		}
	}
}

// FuzzStream feeds host B, whose keys are fixed, whatever comes in place of Init1 and frames.
func FuzzStream(f *testing.F) {
	v := readVectors(f)[0]
	var stream []byte
	for _, fr := range v.AB {
		stream = append(stream, fr.Frame...)
	}
	f.Add([]byte(slices.Concat(v.Init1, stream)), byte(0))
	f.Add([]byte(v.Init1[:50]), byte(1))
	f.Add([]byte(slices.Concat(v.Init1, stream[:30])), byte(7))
	whole := slices.Concat([]byte("hello from ab"), v.AB[2].Data)
	f.Fuzz(func(t *testing.T, stream []byte, cut byte) {
		lower, raw := crypttest.Pipe(crypttest.Options{
			Capacity: len(stream) + MaxInitLen,
			Segment:  func(n int) int { return min(n, 1+int(cut)) },
		})
		b, err := New(lower, Config{Role: eno.RoleB, TEP: v.TEP, Transcript: v.Transcript, Ciphers: []Cipher{v.Cipher}, Rand: v.randB()})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Abort()
		raw.Write(stream)
		raw.CloseWrite()
		if err := b.Handshake(t.Context()); err != nil {
			if !isProtocolError(err) {
				t.Fatalf("handshake: %v", err)
			}
			return
		}
		got, err := io.ReadAll(b)
		if !bytes.HasPrefix(whole, got) {
			t.Fatalf("made up data %q", got)
		}
		if err != nil && !isProtocolError(err) || err == nil && !bytes.Equal(got, whole) {
			t.Fatalf("ended in %v after %d octets", err, len(got))
		}
	})
}
