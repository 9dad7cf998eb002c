package tcpcrypt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// ResetMACLen is the length of a ResetMAC in octets.
const ResetMACLen = 16

// constReset begins the constants of the keys that authenticate RSTs. It is this project's own, not RFC 8548's.
const constReset = "\x11"

// resetKeys are for the RSTs of the two directions.
type resetKeys struct {
	mu      sync.Mutex
	there   bool
	out, in [keyLen]byte
}

// resetKey is the key for RSTs that one direction sends; nonce is sn[i], empty for a fresh key exchange.
func (s *secret) resetKey(w way, nonce []byte) [keyLen]byte {
	return take(cprf(s[:], constReset+w.constant()+string(nonce), keyLen))
}

// install derives the keys while there is a session secret.
func (k *resetKeys) install(s *secret, nonce []byte, ours, theirs way) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.out, k.in, k.there = s.resetKey(ours, nonce), s.resetKey(theirs, nonce), true
}

func (k *resetKeys) erase() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.out[:])
	clear(k.in[:])
	k.there = false
}

// AppendResetMAC appends the 16 octets that vouch for a RST of this host's: HMAC-SHA256, cut short, over its sequence number less
// the initial one (4) and its flags (1). Nothing without keys, and when the transport has been closed or aborted.
func (c *Conn) AppendResetMAC(dst []byte, offset uint32, flags uint8) []byte {
	k := &c.resets
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.there {
		return dst
	}
	return append(dst, resetMAC(&k.out, offset, flags)...)
}

// VerifyResetMAC reports whether mac vouches for a RST of the peer's.
func (c *Conn) VerifyResetMAC(mac []byte, offset uint32, flags uint8) bool {
	k := &c.resets
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.there && hmac.Equal(mac, resetMAC(&k.in, offset, flags))
}

func resetMAC(key *[keyLen]byte, offset uint32, flags uint8) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(append(binary.BigEndian.AppendUint32(nil, offset), flags))
	return h.Sum(nil)[:ResetMACLen]
}
