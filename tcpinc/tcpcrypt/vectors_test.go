package tcpcrypt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

const vectorFile = "testdata/vectors.json"

// hexBytes is octets that JSON has in hex.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorFrame struct {
	Generation     uint32
	Offset         uint64
	Control, Flags byte
	Urgent         uint16
	Data, Frame    hexBytes
}

type vectorSession struct {
	SN        hexBytes
	SessionID hexBytes `json:"session_id"`
	Resume    hexBytes
	MK        []hexBytes
	KAB       []hexBytes `json:"k_ab"`
	KBA       []hexBytes `json:"k_ba"`
}

type vector struct {
	Name             string
	TEP              eno.TEP
	Cipher           Cipher
	Offered          []Cipher
	Transcript, Tail hexBytes
	PrivateA         hexBytes `json:"private_a"`
	PrivateB         hexBytes `json:"private_b"`
	NonceA           hexBytes `json:"nonce_a"`
	NonceB           hexBytes `json:"nonce_b"`
	PublicA          hexBytes `json:"public_a"`
	PublicB          hexBytes `json:"public_b"`
	Init1, Init2, ES hexBytes
	SS               []hexBytes
	Fresh, Resumed   vectorSession
	AB, BA, Odd      []vectorFrame
	Resumptions      []vectorResumption
}

// vectorResumption is a whole resumed session. A and B are so by the roles in the fresh one.
type vectorResumption struct {
	vectorSession
	I          uint64
	Opener     string
	NonceA     hexBytes `json:"nonce_a"`
	NonceB     hexBytes `json:"nonce_b"`
	SuboptionA hexBytes `json:"suboption_a"`
	SuboptionB hexBytes `json:"suboption_b"`
	AB, BA     []vectorFrame
	Early      vectorEarly
}

// vectorEarly is early data in the SYN of the opener.
type vectorEarly struct {
	MK, Data, Frame hexBytes
	KAB             hexBytes `json:"k_ab"`
	KBA             hexBytes `json:"k_ba"`
}

func (v vector) randA() io.Reader { return bytes.NewReader(slices.Concat(v.NonceA, v.PrivateA)) }
func (v vector) randB() io.Reader { return bytes.NewReader(slices.Concat(v.NonceB, v.PrivateB)) }

func readVectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

func eachVector(t *testing.T, f func(t *testing.T, v vector)) {
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) { f(t, v) })
	}
}

// The committed vectors are what the second implementation gives, and cover all that is built.
func TestVectorsAreCurrent(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("the vectors are checked by a Python program: install the package python3 (%v)", err)
	}
	cmd := exec.Command(python, "-B", filepath.Join("testdata", "gen", "vectors.py"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	want, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%v differs from what %v prints", vectorFile, cmd)
	}
	for _, tep := range TEPs() {
		for _, c := range Ciphers() {
			if !slices.ContainsFunc(readVectors(t), func(v vector) bool { return v.TEP == tep && v.Cipher == c }) {
				t.Errorf("no vector for TEP %v with %v", tep, c)
			}
		}
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s\n got %x\nwant %x", what, got, want)
	}
}

func TestVectorExchange(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		o, err := newOffer(v.TEP, v.Offered, v.randA())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "Pub_A", o.pair.appendPublic(nil, nil), v.PublicA)
		if len(v.Tail) == 0 {
			equal(t, "Init1", o.init1, v.Init1)
		}
		o.init1 = v.Init1 // with the tail that is to be ignored
		atA, err := o.finish(v.Transcript, v.Init2)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "PRK at A", atA.secret[:], v.SS[0])
		if atA.cipher != v.Cipher {
			t.Errorf("cipher at A %v", atA.cipher)
		}
		_, pair, err := drawKeys(v.TEP, v.randA()) // o's own is spent
		if err != nil {
			t.Fatal(err)
		}
		es, err := pair.shared(v.PublicB)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "ES", es, v.ES)

		if len(v.Tail) > 0 {
			m, n, err := ParseInit1(v.Init1, v.TEP)
			if err != nil || n != len(v.Init1) || !bytes.Equal(m.Public, v.PublicA) || !slices.Equal(m.Ciphers, v.Offered) {
				t.Errorf("ParseInit1: %+v, %d, %v", m, n, err)
			}
			return // host B's own Init2 has no tail
		}
		init2, atB, err := answer(v.TEP, []Cipher{v.Cipher}, v.randB(), v.Transcript, v.Init1)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "Init2", init2, v.Init2)
		equal(t, "PRK at B", atB.secret[:], v.SS[0])
	})
}

func TestVectorSchedule(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		ss := secret(v.SS[0])
		for i, s := range []vectorSession{v.Fresh, v.Resumed} {
			tepByte := byte(v.TEP)
			if i > 0 {
				tepByte |= 0x80
			}
			id, resume := ss.sessionID(tepByte, s.SN), ss.resume()
			equal(t, "session ID", id[:], s.SessionID)
			equal(t, "resumption identifier", resume[:], s.Resume)
			mk := ss.master(s.SN)
			for j := range s.MK {
				equal(t, "mk", mk[:], s.MK[j])
				equal(t, "k_ab", mk.traffic(v.Cipher, wayAB), s.KAB[j])
				equal(t, "k_ba", mk.traffic(v.Cipher, wayBA), s.KBA[j])
				mk = mk.next()
			}
			ss = ss.next()
			equal(t, "ss", ss[:], v.SS[i+1])
		}
	})
}

func TestVectorFrames(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		ss := secret(v.SS[0])
		for _, stream := range []struct {
			way    way
			frames []vectorFrame
		}{{wayAB, v.AB}, {wayBA, v.BA}, {wayAB, v.Odd}} {
			for _, f := range stream.frames {
				for _, sealing := range []bool{true, false} {
					d, err := newDirection(v.Cipher, stream.way, ss.master(nil), f.Offset)
					if err != nil {
						t.Fatal(err)
					}
					for d.generation < f.Generation {
						if err := d.advance(); err != nil {
							t.Fatal(err)
						}
					}
					if !sealing {
						p, err := d.open(bytes.Clone(f.Frame))
						if err != nil {
							t.Fatal(err)
						}
						equal(t, "data", p.data, f.Data)
						if p.fin != (f.Flags&1 != 0) || p.urgent != (f.Flags&2 != 0) || p.offset != f.Urgent {
							t.Errorf("opened %+v, want %+v", p, f)
						}
					} else if f.Control <= 1 && f.Flags <= 1 { // what a sender here may do
						b := make([]byte, len(f.Data)+frameOverhead)
						copy(b[dataStart:], f.Data)
						n, err := d.seal(b, len(f.Data), f.Control == 1, f.Flags == 1)
						if err != nil {
							t.Fatal(err)
						}
						equal(t, "frame", b[:n], f.Frame)
					}
				}
			}
		}
	})
}

// A Conn at each end puts exactly the vector's octets on the wire.
func TestVectorConn(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		if len(v.Tail) > 0 {
			return // sent by nobody here
		}
		var writesA, writesB [][]byte
		la, lb := crypttest.Pipe(crypttest.Options{})
		la.Tap = func(_ uint64, p []byte) { writesA = append(writesA, p) }
		lb.Tap = func(_ uint64, p []byte) { writesB = append(writesB, p) }
		var logged []KeyLogEntry
		a, b := newConns(t, la, lb,
			Config{Role: eno.RoleA, TEP: v.TEP, Transcript: v.Transcript, Ciphers: v.Offered[:1:1], Rand: v.randA()},
			Config{Role: eno.RoleB, TEP: v.TEP, Transcript: v.Transcript, Ciphers: []Cipher{v.Cipher}, Rand: v.randB(),
				KeyLog: func(e KeyLogEntry) { logged = append(logged, e) }})
		a.cfg.Ciphers = v.Offered // with one that is not known, which New would refuse
		if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		sendVector(t, a, v.AB)
		sendVector(t, b, v.BA)
		for _, side := range []struct {
			c      *Conn
			writes [][]byte
			init   []byte
			sent   []vectorFrame
			got    []vectorFrame
		}{{a, writesA, v.Init1, v.AB, v.BA}, {b, writesB, v.Init2, v.BA, v.AB}} {
			want := [][]byte{side.init}
			for _, f := range side.sent {
				want = append(want, f.Frame)
			}
			if len(side.writes) != len(want) {
				t.Fatalf("%d writes, want %d", len(side.writes), len(want))
			}
			for i := range want {
				equal(t, "write", side.writes[i], want[i])
			}
			got, err := io.ReadAll(side.c)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "data", got, slices.Concat(side.got[0].Data, side.got[2].Data))
			id, err := side.c.SessionID()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "session ID", id, v.Fresh.SessionID)
		}
		if len(logged) != 2 {
			t.Fatalf("%d generations logged, want 2", len(logged))
		}
		for j, e := range logged {
			if e.Generation != uint32(j) || e.Cipher != v.Cipher {
				t.Errorf("entry %d: %+v", j, e)
			}
			equal(t, "session ID", e.SessionID, v.Fresh.SessionID)
			equal(t, "k_ab", e.KAB, v.Fresh.KAB[j])
			equal(t, "k_ba", e.KBA, v.Fresh.KBA[j])
		}
	})
}

// sendVector sends what the frames hold.
func sendVector(t *testing.T, c *Conn, frames []vectorFrame) {
	t.Helper()
	for i, step := range []func() error{
		func() error { _, err := c.Write(frames[0].Data); return err },
		func() error { return c.Rekey() },
		func() error { _, err := c.Write(frames[2].Data); return err },
		func() error { return c.CloseWrite() },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// Resumed sessions, opened by either host: from the suboptions to the octets on the wire.
func TestVectorResumption(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		atA, atB := new(SessionCache), new(SessionCache)
		ofA, ofB := netip.MustParseAddrPort("198.18.0.1:80"), netip.MustParseAddrPort("198.18.0.2:80")
		ss0 := secret(v.SS[0])
		atA.add(&ss0, chain{tep: v.TEP, cipher: v.Cipher, role: eno.RoleA, peer: ofB})
		atB.add(&ss0, chain{tep: v.TEP, cipher: v.Cipher, role: eno.RoleB, peer: netip.AddrPortFrom(ofA.Addr(), 0)})
		if len(v.Resumptions) != 2 {
			t.Fatalf("%d resumptions", len(v.Resumptions))
		}
		for _, r := range v.Resumptions {
			var ta, tb *Ticket
			if r.Opener == "a" {
				ta = atA.Take(ofB, nil)
				tb = atB.Claim(v.TEP, ta.Suboption(r.NonceA), nil)
			} else {
				tb = atB.Take(ofA, nil)
				ta = atA.Claim(v.TEP, tb.Suboption(r.NonceB), nil)
			}
			if ta == nil || tb == nil {
				t.Fatalf("%d: tickets %v and %v", r.I, ta, tb)
			}
			equal(t, "suboption of A", append([]byte{0x80 | byte(ta.TEP())}, ta.Suboption(r.NonceA)...), r.SuboptionA)
			equal(t, "suboption of B", append([]byte{0x80 | byte(tb.TEP())}, tb.Suboption(r.NonceB)...), r.SuboptionB)
			fromB, okA := ta.Match(r.SuboptionB[1:])
			fromA, okB := tb.Match(r.SuboptionA[1:])
			if !okA || !okB {
				t.Errorf("%d: no match, %v and %v", r.I, okA, okB)
			}
			snA, snB := ta.SessionNonce(r.NonceA, fromB), tb.SessionNonce(r.NonceB, fromA)
			equal(t, "sn at A", snA, r.SN)
			equal(t, "sn at B", snB, r.SN)

			opener, other := eno.RoleA, eno.RoleB
			if r.Opener == "b" {
				opener, other = other, opener
			}
			if r.Opener == "a" {
				checkEarly(t, r.Early, ta, tb, r.NonceA)
			} else {
				checkEarly(t, r.Early, tb, ta, r.NonceB)
			}

			var writesA, writesB [][]byte
			la, lb := crypttest.Pipe(crypttest.Options{})
			la.Tap = func(_ uint64, p []byte) { writesA = append(writesA, p) }
			lb.Tap = func(_ uint64, p []byte) { writesB = append(writesB, p) }
			var logged []KeyLogEntry
			tepByte := byte(v.TEP) | 0x80
			a, b := newConns(t, la, lb,
				Config{Role: opener, TEP: v.TEP, TEPByte: tepByte, Ticket: ta, SessionNonce: snA},
				Config{Role: other, TEP: v.TEP, TEPByte: tepByte, Ticket: tb, SessionNonce: snB,
					KeyLog: func(e KeyLogEntry) { logged = append(logged, e) }})
			if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			sendVector(t, a, r.AB)
			sendVector(t, b, r.BA)
			for _, side := range []struct {
				c            *Conn
				writes       [][]byte
				sent, got    []vectorFrame
				role, origin eno.Role
			}{{a, writesA, r.AB, r.BA, opener, eno.RoleA}, {b, writesB, r.BA, r.AB, other, eno.RoleB}} {
				if len(side.writes) != len(side.sent) {
					t.Fatalf("%d writes", len(side.writes))
				}
				for i, f := range side.sent {
					equal(t, "write", side.writes[i], f.Frame)
				}
				got, err := io.ReadAll(side.c)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "data", got, slices.Concat(side.got[0].Data, side.got[2].Data))
				s := side.c.State()
				equal(t, "session ID", s.SessionID, r.SessionID)
				if !s.Resumed || s.Role != side.role || s.SessionRole != side.origin || s.Cipher != v.Cipher {
					t.Errorf("state %+v", s)
				}
			}
			if len(logged) > 0 && logged[0].Early {
				equal(t, "early k_ab", logged[0].KAB, r.Early.KAB)
				equal(t, "early k_ba", logged[0].KBA, r.Early.KBA)
				equal(t, "session ID of early keys", logged[0].SessionID, r.SessionID)
				logged = logged[1:]
			} else {
				t.Error("the early keys are not logged first")
			}
			for j, e := range logged {
				equal(t, "k_ab", e.KAB, r.KAB[j])
				equal(t, "k_ba", e.KBA, r.KBA[j])
			}
			if len(logged) != 2 {
				t.Errorf("%d generations logged", len(logged))
			}
		}
	})
}

// checkEarly seals and opens early data with the opener's nonce, once.
func checkEarly(t *testing.T, v vectorEarly, opener, other *Ticket, nonce []byte) {
	t.Helper()
	mk := opener.secret.earlyMaster(nonce)
	equal(t, "mk_early", mk[:], v.MK)
	opener.LogEarly, other.LogEarly = true, true
	sealed, err := opener.SealEarly(nil, v.Data, nonce)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "early frame", sealed, v.Frame)
	got, err := other.OpenEarly(v.Frame, nonce)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "early data", got, v.Data)
}

func TestSessionIDBeforeHandshake(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, _ := newConns(t, la, lb, testConfig(eno.RoleA, Curve25519), testConfig(eno.RoleB, Curve25519))
	if _, err := a.SessionID(); !errors.Is(err, ErrNoSession) {
		t.Errorf("SessionID: %v", err)
	}
	if s := a.State(); s.Phase != PhaseNew || s.SessionID != nil {
		t.Errorf("State: %+v", s)
	}
}
