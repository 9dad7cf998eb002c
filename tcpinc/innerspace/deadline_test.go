package innerspace_test

import (
	"context"
	"testing"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// timeless is a stream below whose reads have no deadline.
type timeless struct{ innerspace.Lower }

func (timeless) SetReadDeadline(time.Time) error { return nil }

// A deadline is a time of the clock that the Stream was given, for whoever waits for room as well.
func TestReadDeadlineOfClock(t *testing.T) {
	x, y := crypttest.Pipe(crypttest.Options{})
	now := func() time.Time { return time.Now().Add(-time.Hour) }
	a, b := innerspace.NewStream(x, innerspace.StreamConfig{}), innerspace.NewStream(timeless{y}, innerspace.StreamConfig{ReceiveLimit: 200, Now: now})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.WaitOption(ctx) // from now on none is dropped
	const sent = 50
	for i := range sent {
		if err := a.SendOption(rekey(i)); err != nil {
			t.Fatal(err)
		}
	}
	a.Write([]byte("x"))
	b.SetReadDeadline(now().Add(time.Minute))
	read := make(chan error, 1)
	go func() { _, err := b.Read(make([]byte, 1)); read <- err }()
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := 0; n < sent; {
		if err := b.WaitOption(ctx); err != nil {
			t.Fatal(err)
		}
		for range b.Options() {
			n++
		}
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	b.SetReadDeadline(time.Time{})
}
