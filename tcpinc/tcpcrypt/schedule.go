package tcpcrypt

import (
	"crypto/hkdf"
	"crypto/sha256"

	"innertun/tcpinc/eno"
)

// Constants of the key schedule. RFC 8548, Section 4.3.
const (
	constNextK  = "\x01"
	constSessID = "\x02"
	constRekey  = "\x03"
	constKeyA   = "\x04"
	constKeyB   = "\x05"
	constResume = "\x06"
)

const (
	keyLen       = 32 // K_LEN of every TEP. RFC 8548, Section 5
	sessionIDLen = 1 + keyLen
	resumeLen    = 2 * ResumeHalfLen
)

// cprf is CPRF(key, constant, length): HKDF-Expand with SHA-256. RFC 8548, Sections 3.1 and 5.
func cprf(key []byte, constant string, length int) []byte {
	out, err := hkdf.Expand(sha256.New, key, constant, length)
	if err != nil {
		panic("tcpcrypt: " + err.Error()) // only for a length above 255*32, and every length here is a constant
	}
	return out
}

// secret is a session secret ss[i]. RFC 8548, Section 3.3.
type secret [keyLen]byte

// extract computes ss[0], the PRK, of a fresh key exchange. init1 and init2 are the messages as transmitted, ignored
// octets included; es is the ephemeral secret.
func extract(nonceA [initNonceLen]byte, transcript, init1, init2, es []byte) (secret, error) {
	var ikm []byte
	for _, part := range [][]byte{transcript, init1, init2, es} {
		ikm = append(ikm, part...)
	}
	defer clear(ikm)
	prk, err := hkdf.Extract(sha256.New, ikm, nonceA[:])
	if err != nil {
		return secret{}, err
	}
	defer clear(prk)
	return secret(prk), nil
}

// next is ss[i+1].
func (s *secret) next() secret { return secret(take(cprf(s[:], constNextK, keyLen))) }

// sessionID is session_id[i]; tepByte is the octet that host B sent, "v" bit included, and nonce is sn[i], empty for a
// fresh key exchange. RFC 8548, Section 3.4.
func (s *secret) sessionID(tepByte byte, nonce []byte) (id [sessionIDLen]byte) {
	id[0] = tepByte
	copy(id[1:], cprf(s[:], constSessID+string(nonce), keyLen))
	return id
}

// resume is the resumption identifier resume[i]: the first nine octets are sent by original host A, the rest by B.
// RFC 8548, Section 3.5.
func (s *secret) resume() [resumeLen]byte { return [resumeLen]byte(cprf(s[:], constResume, resumeLen)) }

// halves are what this host and its peer send to name the secret, by this host's original role. RFC 8548, Section 3.5.
func (s *secret) halves(original eno.Role) (own, peer half) {
	id := s.resume()
	own, peer = half(id[:ResumeHalfLen]), half(id[ResumeHalfLen:])
	if original == eno.RoleB {
		own, peer = peer, own
	}
	return own, peer
}

// step replaces ss[i] by ss[i+1].
func (s *secret) step() {
	next := s.next()
	*s = next
	clear(next[:])
}

// master is mk[0], with session nonce sn[i]. RFC 8548, Section 3.3.
func (s *secret) master(nonce []byte) masterKey {
	return masterKey(take(cprf(s[:], constRekey+string(nonce), keyLen)))
}

// masterKey is mk[j], of one key generation.
type masterKey [keyLen]byte

// next is mk[j+1].
func (m *masterKey) next() masterKey { return masterKey(take(cprf(m[:], constRekey, keyLen))) }

// traffic returns k_ab[j] or k_ba[j]: the AEAD key, then the nonce randomizer.
func (m *masterKey) traffic(c Cipher, way way) []byte {
	return cprf(m[:], way.constant(), c.TrafficKeyLen())
}

// way names the traffic keys of one direction. It depends on the original role: RFC 8548, Section 3.5.
type way bool

const (
	wayAB way = false
	wayBA way = true
)

func (w way) constant() string {
	if w == wayBA {
		return constKeyB
	}
	return constKeyA
}

// take moves key material out of a slice, which is erased.
func take(b []byte) [keyLen]byte {
	k := [keyLen]byte(b)
	clear(b)
	return k
}
