package tcpcrypt

import (
	"errors"
	"io"
	"testing"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

// A request moves this host one generation on, however often it comes; what is reached is no news, what is beyond is an error.
func TestAsked(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	go io.Copy(io.Discard, a)
	go io.Copy(io.Discard, b)
	for _, g := range []uint32{0, 1, 1, 1} {
		if err := a.Asked(g); err != nil {
			t.Fatal(err)
		}
	}
	waitUntil(t, "the answer", func() bool { return b.State().Sent.Generation == 1 && a.State().Received.Generation == 1 })
	if s := a.State(); s.Sent.Generation != 1 {
		t.Errorf("%+v", s)
	}
	for _, g := range []uint32{3, 1 << 31, 1<<32 - 1} {
		if err := a.Asked(g); !errors.Is(err, ErrRekeyRequest) {
			t.Errorf("generation %d: %v", g, err)
		}
	}
	if err := a.Asked(0); err != nil {
		t.Error(err)
	}
	a.Close()
	b.Close()
}

// A request that was judged by keys which have been replaced since is fulfilled.
func TestAskedLate(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	go io.Copy(io.Discard, a)
	go io.Copy(io.Discard, b)
	if err := a.Asked(1); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the answer", func() bool { return a.State().Received.Generation == 1 })
	a.rekeySoon(0)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if s := a.State(); s.Sent.Generation != 1 {
		t.Errorf("%+v", s.Sent)
	}
	a.rekeySoon(1)
	waitUntil(t, "the next", func() bool { return a.State().Received.Generation == 2 })
}

// A peer over the limits is asked once for the next generation; if it goes on regardless, this host goes ahead.
func TestOverduePeerIsAsked(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{}, func(a, b *Config) { a.KeyLimits.Frames = 10 })
	var asked []uint32
	a.SetAsk(func(g uint32) bool { asked = append(asked, g); return true })
	go io.Copy(io.Discard, b)
	read := func(frames int) {
		t.Helper()
		for range frames {
			if _, err := b.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(19)
	if len(asked) != 0 {
		t.Errorf("asked for %v too early", asked)
	}
	read(9)
	if len(asked) != 1 || asked[0] != 1 || a.State().Sent.Generation != 0 {
		t.Errorf("asked for %v; %+v", asked, a.State())
	}
	read(3)
	waitUntil(t, "going ahead alone", func() bool { return a.State().Sent.Generation > 0 })
	a.Abort()
	b.Abort()
}
