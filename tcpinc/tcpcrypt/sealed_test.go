package tcpcrypt_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"innertun/tcpinc/tcpcrypt"
)

// preparedPair is a key exchange at both hosts.
func preparedPair(t *testing.T) (a, b *tcpcrypt.Prepared) {
	t.Helper()
	tep, ciphers := tcpcrypt.TEPs()[0], tcpcrypt.Ciphers()
	x, err := tcpcrypt.NewExchange(tep, ciphers, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	init2, b, err := tcpcrypt.AnswerExchange(tep, ciphers, rand.Reader, []byte("transcript"), x.Init1())
	if err != nil {
		t.Fatal(err)
	}
	if a, err = x.Finish([]byte("transcript"), init2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Erase(); b.Erase() })
	return a, b
}

// Host B's first message is for host A of the same exchange, whole and unaltered, and there is one.
func TestFirstMessage(t *testing.T) {
	a, b := preparedPair(t)
	message := []byte("who I am")
	sealed, err := b.SealFirst(message)
	if err != nil || len(sealed) != len(message)+tcpcrypt.FirstOverhead || bytes.Contains(sealed, message) {
		t.Fatalf("%x, %v", sealed, err)
	}
	idA, errA := a.SessionID(0x21)
	idB, errB := b.SessionID(0x21)
	if errA != nil || errB != nil || !bytes.Equal(idA, idB) || len(idA) != 33 {
		t.Errorf("session IDs %x, %v; %x, %v", idA, errA, idB, errB)
	}
	if got, err := a.OpenFirst(sealed); err != nil || !bytes.Equal(got, message) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.SealFirst(message); !errors.Is(err, tcpcrypt.ErrPreparedUsed) {
		t.Errorf("sealed twice: %v", err)
	}
	if _, err := a.OpenFirst(sealed); !errors.Is(err, tcpcrypt.ErrPreparedUsed) {
		t.Errorf("opened twice: %v", err)
	}
	other, mine := preparedPair(t)
	if _, err := other.OpenFirst(sealed); !errors.Is(err, tcpcrypt.ErrIntegrity) {
		t.Errorf("of another exchange: %v", err)
	}
	if _, err := mine.OpenFirst(sealed); !errors.Is(err, tcpcrypt.ErrPreparedUsed) {
		t.Errorf("host B opens: %v", err)
	}
	mine.Erase()
	if _, err := mine.SealFirst(message); !errors.Is(err, tcpcrypt.ErrPreparedUsed) {
		t.Errorf("erased: %v", err)
	}
}

func TestFirstMessageAltered(t *testing.T) {
	_, b := preparedPair(t)
	sealed, err := b.SealFirst([]byte("me"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range sealed {
		a, _ := preparedPair(t)
		if _, err := a.OpenFirst(sealed[:n]); !errors.Is(err, tcpcrypt.ErrMalformedFrame) {
			t.Errorf("%d octets of it: %v", n, err)
		}
		a, own := preparedPair(t)
		whole, _ := own.SealFirst([]byte("me"))
		whole[n] ^= 1
		if _, err := a.OpenFirst(whole); !errors.Is(err, tcpcrypt.ErrIntegrity) && !errors.Is(err, tcpcrypt.ErrMalformedFrame) {
			t.Errorf("octet %d altered: %v", n, err)
		}
	}
	_, big := preparedPair(t)
	if _, err := big.SealFirst(make([]byte, tcpcrypt.MaxEarlyData+1)); !errors.Is(err, tcpcrypt.ErrConfig) {
		t.Errorf("too long: %v", err)
	}
}

// An Exchange serves once, and its private key does not outlive that.
func TestExchangeIsErased(t *testing.T) {
	for _, end := range []func(*tcpcrypt.Exchange){
		func(x *tcpcrypt.Exchange) { x.Finish(nil, nil) },
		func(x *tcpcrypt.Exchange) { x.Erase(); x.Erase() },
	} {
		for _, tep := range tcpcrypt.TEPs() {
			x, err := tcpcrypt.NewExchange(tep, []tcpcrypt.Cipher{tcpcrypt.AES128GCM}, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if x.Erased() {
				t.Error("erased before its use")
			}
			end(x)
			if !x.Erased() {
				t.Errorf("TEP %#x: not erased", tep)
			}
			if _, err := x.Finish(nil, nil); !errors.Is(err, tcpcrypt.ErrPreparedUsed) {
				t.Errorf("used twice: %v", err)
			}
		}
	}
}
