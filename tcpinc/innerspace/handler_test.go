package innerspace_test

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// The last option before Close arrives.
func TestCloseReason(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		for range 20 {
			a, b := connect(t, lower, crypttest.Options{})
			var wg sync.WaitGroup
			wg.Go(func() {
				a.SendOption(innerspace.AppendClose(nil, innerspace.CloseReason{Code: innerspace.CloseRefused, Text: "refused"}))
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			})
			if got, err := io.ReadAll(b); len(got) > 0 || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			wg.Wait()
			found := 0
			for o := range b.Options() {
				if r, _, err := innerspace.ParseClose(o.Option); r.String() == "refused: refused" && err == nil {
					found++
				}
			}
			if found != 1 {
				t.Fatalf("%d reasons", found)
			}
		}
	})
}

// A Handler may answer, whatever else is under way, and sees options before what follows them is delivered.
func TestHandlerAnswers(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		var b *innerspace.Stream
		answered := 0
		a, b := connect(t, lower, crypttest.Options{Capacity: 1 << 12}, innerspace.StreamConfig{}, innerspace.StreamConfig{
			SendLimit: 1 << 20,
			Handler: func(r innerspace.Received) bool {
				answered++
				return b.SendOption(r.Option) == nil
			},
		})
		const n = 500
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range n {
				for a.SendOption(rekey(i)) != nil {
					time.Sleep(10 * time.Microsecond)
				}
			}
			a.Write([]byte("x"))
		})
		wg.Go(func() {
			if _, err := b.Read(make([]byte, 1)); err != nil || answered != n {
				t.Error(answered, err)
			}
			b.CloseWrite()
		})
		io.ReadAll(a)
		wg.Wait()
		got := 0
		for o := range a.Options() {
			if number(t, o) != got {
				t.Fatal(number(t, o), got)
			}
			got++
		}
		if missed := int(a.Stats().Missed); got+missed != n {
			t.Errorf("%d answers and %d missed", got, missed)
		}
	})
}

// Behind an option with which the Handler has the connection fail nothing is delivered, not even what stands in the same unit.
func TestHandlerFails(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		var b *innerspace.Stream
		fault := errors.New("a fault")
		a, b := connect(t, lower, crypttest.Options{}, innerspace.StreamConfig{}, innerspace.StreamConfig{
			Handler: func(innerspace.Received) bool { b.Fail(fault); return true },
		})
		var got []byte
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 100)
			for err == nil {
				var n int
				n, err = b.Read(p)
				got = append(got, p[:n]...)
			}
		})
		a.Write([]byte("before"))
		a.SendOption(rekey(1))
		a.Write([]byte("behind"))
		wg.Wait()
		if string(got) != "before" || !errors.Is(err, fault) {
			t.Errorf("%q, %v", got, err)
		}
	})
}
