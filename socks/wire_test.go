package socks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"syscall"
	"testing"
)

// codec checks one message type: its octets, the round trip, and that every strict prefix is truncated by a lower
// bound of what is missing.
func codec[T any](t *testing.T, v T, wire string, add func([]byte, T) []byte, parse func([]byte) (T, int, error)) {
	t.Helper()
	b := add([]byte("before"), v)[len("before"):]
	if string(b) != wire {
		t.Errorf("%+v is % x, want % x", v, b, wire)
	}
	got, n, err := parse(append(bytes.Clone(b), "after"...))
	if err != nil || n != len(b) || !reflect.DeepEqual(got, v) {
		t.Errorf("parsed %+v, %d, %v; want %+v, %d", got, n, err, v, len(b))
	}
	for i := range b {
		got, n, err := parse(b[:i:i])
		var short *TruncatedError
		if !errors.As(err, &short) || !errors.Is(err, ErrMalformed) {
			t.Fatalf("prefix of %d octets: %v", i, err)
		}
		if short.Missing < 1 || short.Missing > len(b)-i {
			t.Errorf("prefix of %d: %d missing, want 1 to %d", i, short.Missing, len(b)-i)
		}
		if n != 0 || !reflect.ValueOf(&got).Elem().IsZero() {
			t.Errorf("prefix of %d: got %+v, %d with an error", i, got, n)
		}
	}
}

func TestCodecs(t *testing.T) {
	v4 := Address{IP: netip.MustParseAddr("198.18.0.1"), Port: 80}
	v6 := Address{IP: netip.MustParseAddr("fd00::1"), Port: 65535}
	name := Address{Name: "upgraded.demo", Port: 443}
	codec(t, Greeting{Methods: []Method{NoAuth, UserPassword}}, "\x05\x02\x00\x02", AppendGreeting, ParseGreeting)
	codec(t, UserPassword, "\x05\x02", AppendChoice, ParseChoice)
	codec(t, User{"ann", "secret"}, "\x01\x03ann\x06secret", AppendUser, ParseUser)
	codec(t, User{"ann", ""}, "\x01\x03ann\x00", AppendUser, ParseUser)
	codec(t, User{"", "x"}, "\x01\x00\x01x", AppendUser, ParseUser)
	codec(t, v4, "\x01\xc6\x12\x00\x01\x00\x50", AppendAddress, ParseAddress)
	codec(t, v6, "\x04\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff", AppendAddress, ParseAddress)
	codec(t, name, "\x03\x0dupgraded.demo\x01\xbb", AppendAddress, ParseAddress)
	codec(t, Request{Connect, name}, "\x05\x01\x00\x03\x0dupgraded.demo\x01\xbb", AppendRequest, ParseRequest)
	codec(t, Reply{ConnectionRefused, v4}, "\x05\x05\x00\x01\xc6\x12\x00\x01\x00\x50", AppendReply, ParseReply)
	if got := AppendReply(nil, Reply{Code: GeneralFailure}); string(got) != "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00" {
		t.Errorf("reply without an address: % x", got)
	}
}

func TestAuthStatus(t *testing.T) {
	for _, ok := range []bool{true, false} {
		b := AppendAuthStatus(nil, ok)
		if got, n, err := ParseAuthStatus(b); got != ok || n != 2 || err != nil {
			t.Errorf("%v: %v %d %v", ok, got, n, err)
		}
		for i := range b {
			if _, _, err := ParseAuthStatus(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("prefix of %d: %v", i, err)
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	var version *VersionError
	var kind *AddressTypeError
	if _, _, err := ParseGreeting([]byte("\x04\x01\x00")); !errors.As(err, &version) || version.Got != 4 {
		t.Error(err)
	}
	if _, _, err := ParseGreeting([]byte("\x05\x00")); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, _, err := ParseUser([]byte("\x05\x01a\x01b")); !errors.As(err, &version) || version.Want != 1 {
		t.Error(err)
	}
	if _, _, err := ParseRequest([]byte("\x05\x01\x00\x02\x00\x00\x00")); !errors.As(err, &kind) || kind.Type != 2 {
		t.Error(err)
	}
	for _, name := range []string{"", "a b", "a\x00b", "a\nb"} {
		b := append([]byte{3, byte(len(name))}, name+"\x00\x50"...)
		if _, _, err := ParseAddress(b); !errors.Is(err, ErrMalformed) || errors.As(err, new(*TruncatedError)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestAddressInLettersIsAnAddress(t *testing.T) {
	for _, s := range []string{"198.18.0.1", "fd00::1"} {
		a, _, err := ParseAddress(append([]byte{3, byte(len(s))}, s+"\x00\x50"...))
		if err != nil || a.IP != netip.MustParseAddr(s) || a.Name != "" {
			t.Errorf("%s: %+v %v", s, a, err)
		}
	}
}

type ownCode struct{}

func (ownCode) Error() string    { return "policy" }
func (ownCode) SOCKSReply() byte { return byte(NotAllowed) }

func TestCodeOf(t *testing.T) {
	op := func(err error) error { return fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: err}) }
	for _, c := range []struct {
		err  error
		want Code
	}{
		{nil, Succeeded},
		{op(os.NewSyscallError("connect", syscall.ECONNREFUSED)), ConnectionRefused},
		{op(syscall.EHOSTUNREACH), HostUnreachable},
		{op(syscall.ENETUNREACH), NetworkUnreachable},
		{op(syscall.ETIMEDOUT), TTLExpired},
		{op(syscall.ECONNRESET), GeneralFailure},
		{op(os.ErrDeadlineExceeded), TTLExpired},
		{context.DeadlineExceeded, TTLExpired},
		{&net.DNSError{IsNotFound: true}, HostUnreachable},
		{&net.DNSError{IsTimeout: true}, TTLExpired},
		{op(ownCode{}), NotAllowed},
		{errors.New("something"), GeneralFailure},
	} {
		if got := CodeOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestKnown(t *testing.T) {
	users := []User{{"ann", "1"}, {"bob", "2"}}
	for u, want := range map[User]bool{
		{"ann", "1"}: true, {"bob", "2"}: true, {"ann", "2"}: false, {"bob", ""}: false, {"", ""}: false, {"ann1", ""}: false,
	} {
		if known(users, u) != want {
			t.Errorf("%v: not %v", u, want)
		}
	}
}

// fuzzCodec: what parses is what is written again, and nothing of the rest matters.
func fuzzCodec[T any](f *testing.F, add func([]byte, T) []byte, parse func([]byte) (T, int, error)) {
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n, err := parse(b)
		if err != nil {
			var short *TruncatedError
			if errors.As(err, &short) && short.Missing < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		again := add(nil, v)
		w, m, err := parse(again)
		if err != nil || m != len(again) || !reflect.DeepEqual(v, w) {
			t.Fatalf("% x: %+v, again %+v, %v", b[:n], v, w, err)
		}
		for i := range n {
			if _, _, err := parse(b[:i]); err == nil {
				t.Fatalf("prefix of %d of %d octets parses", i, n)
			}
		}
	})
}

func FuzzGreeting(f *testing.F) {
	f.Add([]byte("\x05\x02\x00\x02"))
	fuzzCodec(f, AppendGreeting, ParseGreeting)
}

func FuzzUser(f *testing.F) {
	f.Add([]byte("\x01\x03ann\x06secret"))
	fuzzCodec(f, AppendUser, ParseUser)
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x01\xc6\x12\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x03\x0dupgraded.demo\x01\xbb"))
	f.Add([]byte("\x05\x01\x00\x03\x0a198.18.0.1\x01\xbb"))
	fuzzCodec(f, AppendRequest, ParseRequest)
}
