package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// Everything at once, in whatever order: nothing hangs or panics, and the peer takes the stream for complete only if it
// has all that was written.
func TestAnythingAtOnce(t *testing.T) {
	clean, withData := 0, 0
	for i := range 300 {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		la, lb := crypttest.Pipe(crypttest.Options{Capacity: 200 + rng.IntN(5000)})
		if i%4 == 0 { // what ends the streams may come before the keys, and then nothing else would end the round
			time.AfterFunc(20*time.Millisecond, func() { la.Abort() })
		}
		a, b := newConns(t, la, lb, testConfig(eno.RoleA, Curve25519), testConfig(eno.RoleB, Curve25519))
		pause := func() func() {
			d := time.Duration(rng.IntN(2000)) * time.Microsecond
			return func() { time.Sleep(d) }
		}
		var all sync.WaitGroup
		var written atomic.Int64
		ends := map[string]func(c *Conn){
			"Close": func(c *Conn) { c.Close() },
			"Abort": func(c *Conn) { c.Abort() },
			"CloseWrite": func(c *Conn) {
				for passing(c.CloseWrite()) && c.ended.Load() == nil { // what a deadline has cut off comes first
					time.Sleep(50 * time.Microsecond)
				}
			},
			"Rekey": func(c *Conn) { c.Rekey() },
			"deadlines": func(c *Conn) {
				c.SetDeadline(time.Now().Add(-time.Second))
				c.SetDeadline(time.Time{})
			},
		}
		if i%4 != 0 {
			handshakeBoth(t, a, b)
		}
		for name, f := range ends {
			for _, c := range []*Conn{a, b} {
				wait := pause()
				if name == "Abort" && rng.IntN(8) > 0 || name == "Close" && rng.IntN(2) == 0 {
					continue
				}
				all.Go(func() { wait(); f(c) })
			}
		}
		all.Go(func() { a.Handshake(t.Context()) })
		all.Go(func() { b.Handshake(t.Context()) })
		all.Go(func() {
			for n, err := 0, error(nil); err == nil || errors.Is(err, ErrNoSession); written.Add(int64(n)) {
				n, err = a.Write(make([]byte, 3000))
			}
		})
		all.Go(func() {
			for err := error(nil); err == nil || errors.Is(err, ErrNoSession); {
				_, err = b.Write(make([]byte, 700))
			}
		})
		all.Go(func() {
			for err := error(nil); err == nil || errors.Is(err, ErrNoSession) || passing(err) && a.ended.Load() == nil; {
				_, err = a.Read(make([]byte, 5000))
			}
		})
		var got int64
		var end error
		all.Go(func() {
			p := make([]byte, 5000)
			for n := 0; end == nil || errors.Is(end, ErrNoSession) || passing(end) && b.ended.Load() == nil; got += int64(n) {
				n, end = b.Read(p)
			}
		})
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("round %d hangs: %+v, %+v", i, a.State(), b.State())
		}
		if end == io.EOF {
			clean++
			if got != written.Load() {
				t.Fatalf("round %d: the peer takes %d octets of %d for all", i, got, written.Load())
			}
		}
		if got > 0 {
			withData++
		}
		a.Abort()
		b.Abort()
		waitUntil(t, "keys are erased", func() bool { return !holdsKeys(a) && !holdsKeys(b) })
	}
	t.Logf("%d rounds ended in order, data arrived in %d", clean, withData)
	if clean == 0 || withData == 0 {
		t.Error("the rounds are all alike: the test shows nothing")
	}
}

func holdsKeys(c *Conn) bool {
	c.in.mu.Lock()
	defer c.unlockIn() // who cannot erase the keys, as the lock is held, leaves that to whoever holds it
	c.out.mu.Lock()
	defer c.unlockOut()
	for _, d := range []*direction{c.in.dir, c.out.dir} {
		if d != nil && (d.aead != nil || d.master != masterKey{} || d.randomizer != [nonceLen]byte{}) {
			return true
		}
	}
	return false
}

// Nonces and keys are new for every key exchange. RFC 8548, Section 3.3.
func TestFreshKeys(t *testing.T) {
	cfg, err := testConfig(eno.RoleA, Curve25519).filled()
	if err != nil {
		t.Fatal(err)
	}
	for _, tep := range TEPs() {
		var offers []*offer
		for range 3 {
			o, err := newOffer(tep, Ciphers(), cfg.Rand)
			if err != nil {
				t.Fatal(err)
			}
			offers = append(offers, o)
		}
		for i, o := range offers {
			p := offers[(i+1)%len(offers)]
			if o.nonce == p.nonce || bytes.Equal(o.pair.appendPublic(nil, nil), p.pair.appendPublic(nil, nil)) {
				t.Errorf("TEP %v: the same nonce or key twice", tep)
			}
		}
	}
}

// The session ID depends on what both ends contributed and on the negotiation. RFC 8547, Section 5.1.
func TestSessionIDDependsOnAll(t *testing.T) {
	v := readVectors(t)[0]
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[1] ^= 4
		return b
	}
	seen := make(map[[sessionIDLen]byte]string)
	for name, edit := range map[string]func(v *vector){
		"as it is":   func(*vector) {},
		"N_A":        func(v *vector) { v.NonceA = flip(v.NonceA) },
		"N_B":        func(v *vector) { v.NonceB = flip(v.NonceB) },
		"A's key":    func(v *vector) { v.PrivateA = flip(v.PrivateA) },
		"B's key":    func(v *vector) { v.PrivateB = flip(v.PrivateB) },
		"A's option": func(v *vector) { v.Transcript = flip(v.Transcript) },
		"B's option": func(v *vector) { v.Transcript[len(v.Transcript)-1] ^= 1 },
		"ciphers":    func(v *vector) { v.Offered = append(v.Offered, 0x99) },
	} {
		w := v
		w.Transcript = bytes.Clone(v.Transcript)
		edit(&w)
		o, err := newOffer(w.TEP, w.Offered, w.randA())
		if err != nil {
			t.Fatal(err)
		}
		init2, atB, err := answer(w.TEP, []Cipher{w.Cipher}, w.randB(), w.Transcript, o.init1)
		if err != nil {
			t.Fatal(err)
		}
		atA, err := o.finish(w.Transcript, init2)
		if err != nil {
			t.Fatal(err)
		}
		id := atA.secret.sessionID(byte(w.TEP), nil)
		if id != atB.secret.sessionID(byte(w.TEP), nil) {
			t.Errorf("%s: the ends differ", name)
		}
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the same session ID", name, other)
		}
		seen[id] = name
		mk := atA.secret.master(nil)
		if key := mk.traffic(w.Cipher, wayAB); bytes.Contains(id[:], key[:w.Cipher.KeyLen()]) || bytes.Contains(id[:], mk[:]) {
			t.Errorf("%s: key material in the session ID", name)
		}
	}
}

// Hosts that saw different SYN options get no octet across. RFC 8547, Section 4.8.
func TestTranscriptsDiffer(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, _ *Config) { ca.Transcript = []byte("transcripT") })
	a.Write([]byte("secret"))
	for range 2 {
		if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, ErrIntegrity) {
			t.Errorf("Read: %d, %v", n, err)
		}
	}
	if _, err := a.Read(make([]byte, 10)); err == nil || err == io.EOF {
		t.Errorf("A: %v", err)
	}
}

// Of an older generation nothing is left once the next is in use, in either direction. RFC 8548, Section 3.8.
func TestAdvanceLeavesNoOldKeys(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	reading(b)
	before := *a.out.dir
	if err := a.Rekey(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "answer", func() bool { return b.State().Sent.Generation == 1 })
	for who, d := range map[string]*direction{"A, sending": a.out.dir, "B, sending": b.out.dir} {
		if d.generation != 1 || d.master != before.master.next() || d.randomizer == before.randomizer || d.aead == before.aead {
			t.Errorf("%s: the old key set is there", who)
		}
	}
	// What the old generation sealed does not open any more.
	p := before
	frame := sealed(t, &p, []byte("x"), false, false)
	d := *a.out.dir
	d.offset = before.offset
	if _, err := d.open(frame); !errors.Is(err, ErrIntegrity) {
		t.Errorf("a frame of generation 0: %v", err)
	}
}

// The octets that a key was made in are erased once it is in its place.
func TestTakeErases(t *testing.T) {
	b := bytes.Repeat([]byte{7}, keyLen)
	if k := take(b); k != [keyLen]byte(bytes.Repeat([]byte{7}, keyLen)) || !bytes.Equal(b, make([]byte, keyLen)) {
		t.Errorf("key %x, left behind %x", k, b)
	}
}

// Keys go as soon as a direction has ended, before the connection is closed.
func TestEndOfStreamErasesKeys(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	a.Write([]byte("last"))
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if a.out.dir.aead != nil || a.out.dir.master != (masterKey{}) || a.in.dir.aead == nil {
		t.Error("A: the sending keys are left, or the receiving ones gone")
	}
	if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if b.in.dir.aead != nil || b.in.dir.master != (masterKey{}) || b.out.dir.aead == nil {
		t.Error("B: the receiving keys are left, or the sending ones gone")
	}
}

// short is a transport that takes less than it is given and says nothing.
type short struct{ Transport }

func (s short) Write(p []byte) (int, error) { return s.Transport.Write(p[:len(p)/2]) }

func TestShortWrites(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, b := newConns(t, la, lb, testConfig(eno.RoleA, Curve25519), testConfig(eno.RoleB, Curve25519))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	a.lower = short{la}
	for range 2 { // and what follows must not go into the gap
		if n, err := a.Write([]byte("data")); n != 0 || !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("Write: %d, %v", n, err)
		}
	}
	lower, _ := crypttest.Pipe(crypttest.Options{})
	c, err := New(short{lower}, testConfig(eno.RoleA, Curve25519))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Handshake(t.Context()); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Handshake: %v", err)
	}
}

// After Close there is nothing to read, not even the end of the stream.
func TestReadAfterClose(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	a.CloseWrite()
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	b.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}
