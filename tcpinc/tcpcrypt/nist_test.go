package tcpcrypt

import (
	"bytes"
	"testing"
)

// A host A whose pubkey_len does not count itself is understood, and answered in kind. The messages are keyed as sent.
func TestPubkeyLenWithoutItself(t *testing.T) {
	o, err := newOffer(P256, Ciphers(), zeroRand{})
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(o.init1, []byte{0, 35, 2 | o.init1[len(o.init1)-33]&1})
	if at != len(o.init1)-35 {
		t.Fatalf("Init1 %x", o.init1)
	}
	for _, length := range []byte{35, 33} {
		o.init1[at+1] = length
		init2, atB, err := answer(P256, Ciphers(), zeroRand{}, nil, o.init1)
		if err != nil {
			t.Fatalf("pubkey_len %d: %v", length, err)
		}
		if got := init2[len(init2)-35:]; got[0] != 0 || got[1] != length {
			t.Errorf("pubkey_len %d is answered by %x", length, got)
		}
		atA, err := o.finish(nil, init2)
		if err != nil || atA.secret != atB.secret {
			t.Errorf("pubkey_len %d: the ends differ, %v", length, err)
		}
	}
}
