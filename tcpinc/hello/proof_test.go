package hello

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"
)

var sessionID = bytes.Repeat([]byte{0x21}, 33)

func signed(t *testing.T) Hello {
	t.Helper()
	h := Hello{Capabilities: AuthenticatedResets}
	if err := h.Sign(key(1), RoleA, sessionID); err != nil {
		t.Fatal(err)
	}
	return h
}

// What is signed, octet by octet. RFC 8032 signatures are deterministic, so the signature itself is a vector too.
func TestProofVector(t *testing.T) {
	h := signed(t)
	want := "innertun peer proof\x00" + "A" + string(sessionID) + string(h.Identity.Key[:]) + "\x00\x00\x00\x01"
	got := AppendProof(nil, RoleA, sessionID, h.Identity.Key, h.Capabilities)
	if string(got) != want {
		t.Errorf("signed are %q, want %q", got, want)
	}
	if s := ed25519.Sign(key(1), []byte(want)); !bytes.Equal(s, h.Identity.Signature[:]) {
		t.Errorf("signature %x, want %x", h.Identity.Signature, s)
	}
	const vector = "49544831006a010004000000010200608a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5cc24c66fc320974b6675693e48ec68152293b028acf236ee857c22cf4f585d138835a7d713693d8d042dbeb861f0d0815bbfb3d6081b96745518d9361e7357b06"
	if hex.EncodeToString(Append(nil, h)) != vector {
		t.Errorf("hello %x", Append(nil, h))
	}
}

// A proof is for one role, one session, one key and one set of capabilities.
func TestVerify(t *testing.T) {
	h := signed(t)
	if err := h.Verify(RoleA, sessionID); err != nil {
		t.Errorf("a good proof: %v", err)
	}
	if err := h.Verify(RoleB, sessionID); !errors.Is(err, ErrProof) {
		t.Errorf("sent back to its signer: %v", err)
	}
	for bit := range len(sessionID) * 8 {
		other := bytes.Clone(sessionID)
		other[bit/8] ^= 1 << (bit % 8)
		if err := h.Verify(RoleA, other); !errors.Is(err, ErrProof) {
			t.Fatalf("another session, bit %d: %v", bit, err)
		}
	}
	other := h
	other.Capabilities = 0
	if err := other.Verify(RoleA, sessionID); !errors.Is(err, ErrProof) {
		t.Errorf("other capabilities: %v", err)
	}
	other = h
	other.Identity = &Identity{Key: [32]byte(key(2).Public().(ed25519.PublicKey)), Signature: h.Identity.Signature}
	if err := other.Verify(RoleA, sessionID); !errors.Is(err, ErrProof) {
		t.Errorf("another key: %v", err)
	}
	for bit := range ed25519.SignatureSize * 8 {
		other.Identity = &Identity{Key: h.Identity.Key, Signature: h.Identity.Signature}
		other.Identity.Signature[bit/8] ^= 1 << (bit % 8)
		if err := other.Verify(RoleA, sessionID); !errors.Is(err, ErrProof) {
			t.Fatalf("altered signature, bit %d: %v", bit, err)
		}
	}
	if err := (&Hello{}).Verify(RoleA, sessionID); err != nil {
		t.Errorf("nothing claimed: %v", err)
	}
	if RoleA.Other() != RoleB || RoleB.Other() != RoleA {
		t.Error("the other role is not the other one")
	}
}

func TestSignNeedsEd25519(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var h Hello
	if err := h.Sign(k, RoleA, sessionID); !errors.Is(err, ErrNotEd25519) || h.Identity != nil {
		t.Errorf("%v, %+v", err, h.Identity)
	}
}
