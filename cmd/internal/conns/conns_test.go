package conns

import (
	"encoding/json"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time          { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

var (
	local  = netip.MustParseAddrPort("198.18.0.1:61000")
	remote = netip.MustParseAddrPort("[fd00::1]:80")
)

// The names and types are a contract with others.
func TestEveryKeyIsAlwaysThere(t *testing.T) {
	k := &clock{t: time.Unix(1000, 0)}
	r := New(k.now)
	r.Add(Client, netip.AddrPort{}, remote)
	b, err := json.Marshal(r.Snapshot()[0])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	json.Unmarshal(b, &got)
	want := map[string]any{"id": 1.0, "role": "client", "local": "", "remote": "[fd00::1]:80", "state": "opening",
		"encrypted": false, "tep": "", "cipher": "", "session_id": "", "resumed": false, "inner_space": false,
		"early_data": false, "app_aware": false, "peer": "", "fallback_reason": "", "downgraded": false, "error": "", "rtt_ms": 0.0,
		"bytes_in": 0.0, "bytes_out": 0.0, "rekeys": 0.0, "options_sent": 0.0, "options_received": 0.0, "options_unknown": 0.0, "options_missed": 0.0, "peer_mtu": 0.0, "resets_refused": 0.0, "handshake_ms": 0.0, "age_ms": 0.0}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLife(t *testing.T) {
	k := &clock{t: time.Unix(1000, 0)}
	r := New(k.now)
	c := r.Add(Server, netip.AddrPort{}, remote)
	k.advance(1500 * time.Microsecond)
	rtt := 20 * time.Millisecond
	c.SetLive(func() Live { r.Active(); return Live{RTT: rtt, Rekeys: 3} }) // may call back
	c.Established(Established{Local: local, Encrypted: true, TEP: "curve25519", Cipher: "aes-128-gcm",
		SessionID: []byte{0xab, 1}, Handshake: 1500 * time.Microsecond})
	c.BytesIn.Add(7)
	c.BytesOut.Add(9)
	got := r.Snapshot()[0]
	want := Info{ID: 1, Role: Server, Local: "198.18.0.1:61000", Remote: "[fd00::1]:80", State: Open, Encrypted: true,
		TEP: "curve25519", Cipher: "aes-128-gcm", SessionID: "ab01", RTT: 20, Rekeys: 3, BytesIn: 7, BytesOut: 9, Handshake: 1.5, Age: 1.5}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	c.Closing()
	if s := r.Snapshot()[0].State; s != Closing {
		t.Error(s)
	}
	k.advance(time.Second)
	c.End()
	c.Fail("reset", "", errors.New("too late")) // the first verdict stands
	k.advance(time.Second)
	want.State, want.Age = Closed, 1001.5
	if d := cmp.Diff(want, r.Snapshot()[0]); d != "" {
		t.Error(d)
	}
	if r.Active() != 0 {
		t.Error("still active")
	}
	k.advance(KeepFor)
	if n := len(r.Snapshot()); n != 0 {
		t.Errorf("%d kept beyond their time", n)
	}
}

func TestTotals(t *testing.T) {
	r := New(nil)
	add := func() *Conn { return r.Add(Client, local, remote) }
	add().Established(Established{Encrypted: true})
	twice := add()
	twice.Established(Established{FallbackReason: "peer-no-eno"})
	twice.Established(Established{Encrypted: true})
	add().Established(Established{FallbackReason: "peer-no-eno"})
	add().Established(Established{FallbackReason: "local"})
	add().Fail("refused", "", errors.New("connection refused"))
	f := add()
	f.Downgraded()
	f.Fail("require", "peer-no-eno", errors.New("encryption is required"))
	add().Established(Established{FallbackReason: "remembered", Downgraded: true})
	want := Totals{Encrypted: 1, Plain: map[string]uint64{"peer-no-eno": 2, "local": 1, "remembered": 1},
		Failed: map[string]uint64{"refused": 1, "require": 1}}
	if d := cmp.Diff(want, r.Totals()); d != "" {
		t.Error(d)
	}
	if r.Active() != 5 {
		t.Errorf("%d active", r.Active())
	}
	for _, i := range r.Snapshot() {
		if want := i.ID == f.ID() || i.FallbackReason == "remembered"; i.Downgraded != want {
			t.Errorf("%+v", i)
		}
		if i.ID == f.ID() && (i.State != Failed || i.FallbackReason != "peer-no-eno" || i.Error != "encryption is required") {
			t.Errorf("%+v", i)
		}
	}
	b, _ := json.Marshal(New(nil).Totals())
	if string(b) != `{"encrypted":0,"plain":{},"failed":{}}` {
		t.Errorf("%s", b)
	}
}

func TestBounds(t *testing.T) {
	r := New(nil)
	for i := range 3 * KeepMax {
		c := r.Add(Client, local, remote)
		c.Fail(string(rune('a'+i)), "", nil)
	}
	s := r.Snapshot()
	if len(s) != KeepMax || s[0].ID != 2*KeepMax+1 || s[KeepMax-1].ID != 3*KeepMax {
		t.Errorf("%d kept, %d to %d", len(s), s[0].ID, s[len(s)-1].ID)
	}
	if n := len(r.Totals().Failed); n > maxKinds+1 {
		t.Errorf("%d kinds", n)
	}
	if cap(r.ended) > 4*KeepMax {
		t.Errorf("room for %d", cap(r.ended))
	}
}

func TestAscendingAndConcurrent(t *testing.T) {
	r := New(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				c := r.Add(Client, local, remote)
				c.SetLive(func() Live { return Live{RTT: 1} })
				c.Established(Established{})
				c.BytesIn.Add(1)
				if i%2 == 0 {
					c.End()
				}
				if i%50 == 0 {
					r.Snapshot()
				}
			}
		})
	}
	wg.Wait()
	s := r.Snapshot()
	if len(s) != 1600 {
		t.Errorf("%d", len(s))
	}
	for i := 1; i < len(s); i++ {
		if s[i-1].ID >= s[i].ID {
			t.Fatalf("%d before %d", s[i-1].ID, s[i].ID)
		}
	}
}
