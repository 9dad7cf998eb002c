package innerspace_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// The last option comes behind all data and all options, and nothing behind it.
func TestLeave(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		var got []int
		a, b := connect(t, lower, crypttest.Options{}, innerspace.StreamConfig{}, innerspace.StreamConfig{
			Handler: func(r innerspace.Received) bool { got = append(got, number(t, r)); return true },
		})
		done := make(chan bool, 1)
		go func() {
			a.Write([]byte("data"))
			a.AddOption(rekey(1))
			left := a.Leave(rekey(2), time.Minute)
			if _, err := a.Write([]byte("x")); !errors.Is(err, innerspace.ErrWriteClosed) {
				t.Errorf("Write: %v", err)
			}
			if err := a.SendOption(rekey(3)); !errors.Is(err, innerspace.ErrWriteClosed) {
				t.Errorf("SendOption: %v", err)
			}
			if a.Leave(rekey(4), time.Minute) {
				t.Error("it left twice")
			}
			done <- left
		}()
		data := make([]byte, 4)
		if _, err := io.ReadFull(b, data); err != nil || string(data) != "data" {
			t.Fatalf("%q, %v", data, err)
		}
		if err := b.ReadOptions(func() bool { return len(got) == 2 }); err != nil || len(got) != 2 || got[0] != 1 || got[1] != 2 {
			t.Errorf("options %v, %v", got, err)
		}
		if !<-done {
			t.Error("the option did not leave")
		}
	})
}

// With no room, and a Write under way, leaving takes no longer than it may.
func TestLeaveWithoutRoom(t *testing.T) {
	for lower, over := range map[string]func(t *testing.T, x, y *crypttest.End) innerspace.Lower{
		"pipe":     func(_ *testing.T, x, _ *crypttest.End) innerspace.Lower { return x },
		"tcpcrypt": func(t *testing.T, x, y *crypttest.End) innerspace.Lower { a, _ := encrypted(t, x, y); return a },
	} {
		t.Run(lower, func(t *testing.T) {
			x, y := crypttest.Pipe(crypttest.Options{Capacity: 8 << 10})
			a := innerspace.NewStream(over(t, x, y), innerspace.StreamConfig{})
			written := make(chan error, 1)
			go func() {
				_, err := a.Write(make([]byte, 1<<20))
				written <- err
			}()
			if err := x.WaitFull(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if a.Leave(rekey(1), 100*time.Millisecond) {
				t.Error("it left, without room")
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("after %v", took)
			}
			a.Abort()
			if err := <-written; err == nil {
				t.Error("the Write succeeded")
			}
		})
	}
}

// A Write that is cut off because the connection fails, or ends, says that: it did not run into a deadline of its caller's.
func TestLeaveCutsWrite(t *testing.T) {
	fault := errors.New("a fault")
	writes := map[string]func(*innerspace.Stream) error{
		"Write":    func(s *innerspace.Stream) error { _, err := s.Write(make([]byte, 1<<20)); return err },
		"ReadFrom": func(s *innerspace.Stream) error { _, err := s.ReadFrom(zeros{}); return err },
	}
	for _, lower := range []string{"pipe", "tcpcrypt"} {
		for name, write := range writes {
			for _, fails := range []bool{true, false} {
				t.Run(fmt.Sprint(lower, " ", name, " fails ", fails), func(t *testing.T) {
					var a *innerspace.Stream
					a, _ = connect(t, lower, crypttest.Options{Capacity: 8 << 10}, innerspace.StreamConfig{
						Failing: func(error) { a.Leave(rekey(1), 50*time.Millisecond) },
					})
					written := make(chan error, 1)
					go func() { written <- write(a) }()
					time.Sleep(20 * time.Millisecond)
					if fails {
						a.Fail(fault)
					} else {
						a.Leave(rekey(1), 50*time.Millisecond)
						a.Abort()
					}
					err := <-written
					if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || fails && !errors.Is(err, fault) {
						t.Error(err)
					}
				})
			}
		}
	}
}

// ReadOptions takes no payload, and goes no further than it must.
func TestReadOptions(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		seen := 0
		next := make(chan struct{}, 2) // each is sent once what is before it has been read
		a, b := connect(t, lower, crypttest.Options{}, innerspace.StreamConfig{}, innerspace.StreamConfig{
			Handler: func(innerspace.Received) bool { seen++; next <- struct{}{}; return true },
		})
		go func() {
			a.SendOption(rekey(1))
			<-next
			a.SendOption(rekey(2))
			<-next
			a.Write([]byte("payload"))
			a.CloseWrite()
		}()
		if err := b.ReadOptions(func() bool { return seen == 1 }); err != nil || seen != 1 {
			t.Errorf("%d, %v", seen, err)
		}
		if err := b.ReadOptions(nil); err != nil || seen != 2 {
			t.Errorf("up to the payload: %d, %v", seen, err)
		}
		if got, err := io.ReadAll(b); string(got) != "payload" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := b.ReadOptions(nil); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	})
}

// AddOption waits for data.
func TestAddOption(t *testing.T) { synctest.Test(t, testAddOption) }

func testAddOption(t *testing.T) {
	a, b := connect(t, "tcpcrypt", crypttest.Options{})
	if err := a.AddOption(rekey(7)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if s := a.Stats(); s.UnitsSent != 0 || s.OptionsSent != 1 {
		t.Errorf("%+v", s)
	}
	a.Write([]byte("data"))
	if s := a.Stats(); s.UnitsSent != 1 {
		t.Errorf("%+v", s)
	}
	b.Read(make([]byte, 4))
	for r := range b.Options() {
		if number(t, r) != 7 || r.Position != 0 {
			t.Errorf("%+v", r)
		}
	}
}
