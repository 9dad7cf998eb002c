package tcpcrypt

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math"
)

// direction holds the keys of one direction and its place in the stream: pure, not safe for concurrent use.
//
// The offset in a frame's nonce counts every octet that the direction's TCP stream carried before the frame, Init1 or
// Init2 and earlier frames with their headers included. RFC 8548, Section 3.6.
type direction struct {
	cipher     Cipher
	way        way
	master     masterKey // mk[generation]
	generation uint32
	aead       cipher.AEAD
	randomizer [nonceLen]byte
	nonce      [nonceLen]byte
	offset     uint64 // of the next frame

	keyFrames, keyOctets uint64 // under the current key
}

func newDirection(c Cipher, w way, mk masterKey, offset uint64) (*direction, error) {
	d := &direction{cipher: c, way: w, master: mk, offset: offset}
	if err := d.install(); err != nil {
		return nil, err
	}
	return d, nil
}

// install derives the traffic key of the current generation.
func (d *direction) install() error {
	key := d.master.traffic(d.cipher, d.way)
	defer clear(key)
	aead, err := d.cipher.aead(key[:d.cipher.KeyLen()])
	if err != nil {
		return err
	}
	d.aead = aead
	d.keyFrames, d.keyOctets = 0, 0
	copy(d.randomizer[:], key[d.cipher.KeyLen():])
	return nil
}

// advance moves on to the next key generation and erases the current one. RFC 8548, Section 3.8.
func (d *direction) advance() error {
	if d.generation == math.MaxUint32 {
		return fmt.Errorf("%w: generation number exhausted", ErrRekeyOverflow)
	}
	d.master = d.master.next()
	d.generation++
	return d.install()
}

// erase forgets the keys. The AEAD's expanded key is out of reach: it is left to the collector.
func (d *direction) erase() {
	clear(d.master[:])
	clear(d.randomizer[:])
	clear(d.nonce[:])
	d.aead = nil
}

// seal makes a frame in place of the n octets at b[dataStart:], and returns its length, n+frameOverhead; b must have as
// much room. rekey says that this is the first frame of its generation, fin that it is the last of the stream.
func (d *direction) seal(b []byte, n int, rekey, fin bool) (int, error) {
	size := n + frameOverhead
	if err := d.take(size); err != nil {
		return 0, err
	}
	putFrameHeader(b, frameHeader{rekey: rekey, clen: size - frameHeaderLen})
	b[frameHeaderLen] = 0
	if fin {
		b[frameHeaderLen] = flagFIN
	}
	d.aead.Seal(b[frameHeaderLen:frameHeaderLen], d.nonce[:], b[frameHeaderLen:dataStart+n], b[:frameHeaderLen])
	return size, nil
}

// open decrypts a whole frame in place; the plaintext refers to it.
func (d *direction) open(frame []byte) (plaintext, error) {
	at := d.offset
	if err := d.take(len(frame)); err != nil {
		return plaintext{}, err
	}
	header, sealed := frame[:frameHeaderLen], frame[frameHeaderLen:]
	b, err := d.aead.Open(sealed[:0], d.nonce[:], sealed, header)
	if err != nil {
		return plaintext{}, fmt.Errorf("%w (frame of %d octets at offset %d, generation %d)", ErrIntegrity, len(frame), at, d.generation)
	}
	return parsePlaintext(b)
}

// take sets the nonce for a frame of the given length and moves the offset past it.
func (d *direction) take(size int) error {
	if d.offset > math.MaxUint64-uint64(size) {
		return ErrOffsetOverflow
	}
	// N = frame_ID XOR NR; the frame ID is the offset, padded on the left. RFC 8548, Sections 3.6 and 4.2.3.
	clear(d.nonce[:nonceLen-8])
	binary.BigEndian.PutUint64(d.nonce[nonceLen-8:], d.offset)
	subtle.XORBytes(d.nonce[:], d.nonce[:], d.randomizer[:])
	d.offset += uint64(size)
	d.keyFrames++
	d.keyOctets += uint64(size)
	return nil
}
