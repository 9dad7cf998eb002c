package hello

import (
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
)

// proofLabel keeps these signatures apart from all others that a key may be used for.
const proofLabel = "innertun peer proof\x00"

// Role is the part of the signer in the connection, as its ENO negotiation assigned it, in the way it is signed: so that a
// host is not taken in by its own proof sent back to it.
type Role byte

const (
	RoleA Role = 'A'
	RoleB Role = 'B'
)

// Other is the peer's role.
func (r Role) Other() Role {
	if r == RoleA {
		return RoleB
	}
	return RoleA
}

// Errors of Sign and Verify.
var (
	// ErrNotEd25519 says that a signer has a key of another kind.
	ErrNotEd25519 = errors.New("hello: the identity is not an Ed25519 key")
	// ErrProof says that an identity is claimed and its signature is not the claimed key's over this session.
	ErrProof = errors.New("hello: the signature over this session is not that of the claimed key: somebody in the middle may have passed it on")
)

// AppendProof appends what an identity's signature covers: the label, the signer's role, the session ID (RFC 8548, Section
// 3.4: 33 octets, unique to the connection, known to both its ends and to nobody in the middle), the public key and the
// announced capabilities.
func AppendProof(dst []byte, signer Role, sessionID []byte, key [ed25519.PublicKeySize]byte, c Capabilities) []byte {
	dst = append(dst, proofLabel...)
	dst = append(dst, byte(signer))
	dst = append(dst, sessionID...)
	dst = append(dst, key[:]...)
	return binary.BigEndian.AppendUint32(dst, uint32(c))
}

// Sign adds the identity of key to h, proven for one session and role; the capabilities must be set. Errors:
// ErrNotEd25519, those of the signer.
func (h *Hello) Sign(key crypto.Signer, own Role, sessionID []byte) error {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return ErrNotEd25519
	}
	id := Identity{Key: [ed25519.PublicKeySize]byte(public)}
	// Ed25519 signs the message itself and draws no randomness. RFC 8032, Section 5.1.6.
	signature, err := key.Sign(nil, AppendProof(nil, own, sessionID, id.Key, h.Capabilities), crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("hello: signing: %w", err)
	}
	if copy(id.Signature[:], signature) != ed25519.SignatureSize {
		return fmt.Errorf("hello: the signer gave %d octets, expected %d", len(signature), ed25519.SignatureSize)
	}
	h.Identity = &id
	return nil
}

// Verify checks the identity that a peer in that role claims for a session. Nil without an identity. Error: ErrProof.
func (h *Hello) Verify(peer Role, sessionID []byte) error {
	if h.Identity == nil {
		return nil
	}
	message := AppendProof(nil, peer, sessionID, h.Identity.Key, h.Capabilities)
	if !ed25519.Verify(h.Identity.Key[:], message, h.Identity.Signature[:]) {
		return ErrProof
	}
	return nil
}
