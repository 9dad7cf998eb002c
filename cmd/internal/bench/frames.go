package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// framed is what sealing and opening costs with one cipher and one length of data to the frame.
type framed struct {
	Cipher             string
	Size               int       // octets of data in a frame
	Seal, Open         []float64 // GB/s through a tcpcrypt.Conn whose transport does nothing
	BareSeal, BareOpen []float64 // GB/s of the AEAD alone, over the same octets
}

// tap is a transport that first is a pipe, then either drops or keeps what is written, and gives what it was loaded with.
type tap struct {
	*crypttest.End
	keep, drop bool
	kept       []byte
	load       []byte
}

func (t *tap) Write(p []byte) (int, error) {
	switch {
	case t.keep:
		t.kept = append(t.kept, p...)
	case !t.drop:
		return t.End.Write(p)
	}
	return len(p), nil
}

func (t *tap) Read(p []byte) (int, error) {
	if t.load == nil {
		return t.End.Read(p)
	}
	n := copy(p, t.load)
	if t.load = t.load[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// WaitRead replaces the pipe's.
func (t *tap) WaitRead() error {
	if t.load == nil {
		return t.End.WaitRead()
	}
	return nil
}

// connected is two ends that have exchanged keys.
func connected(c tcpcrypt.Cipher) (a, b *tcpcrypt.Conn, below [2]*tap, err error) {
	ea, eb := crypttest.Pipe(crypttest.Options{})
	below = [2]*tap{{End: ea}, {End: eb}}
	var ends [2]*tcpcrypt.Conn
	for i, role := range []eno.Role{eno.RoleA, eno.RoleB} {
		if ends[i], err = tcpcrypt.New(below[i], tcpcrypt.Config{
			Role: role, TEP: tcpcrypt.Curve25519, Transcript: []byte("bench"), Ciphers: []tcpcrypt.Cipher{c},
		}); err != nil {
			return nil, nil, below, err
		}
	}
	var errs [2]error
	var both sync.WaitGroup
	for i, end := range ends {
		both.Go(func() { errs[i] = end.Handshake(context.Background()) })
	}
	both.Wait()
	return ends[0], ends[1], below, errors.Join(errs[:]...)
}

const frameOctets = 32 << 20 // that each measurement seals, or opens

// measureFrames compares frames with the bare AEAD in rounds.
func measureFrames(rounds int) ([]framed, error) {
	var all []framed
	for _, c := range tcpcrypt.Ciphers() {
		for _, size := range []int{64, 1400, 16 << 10, tcpcrypt.DefaultMaxFrame - 20} {
			fmt.Fprintf(os.Stderr, "frames, %v, %d octets\n", c, size)
			f := framed{Cipher: c.String(), Size: size}
			for range rounds {
				if err := f.round(c); err != nil {
					return nil, fmt.Errorf("%v, %d octets: %w", c, size, err)
				}
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// load is count writes of size octets.
type load struct{ count, size int }

// rate is GB/s at which do gets through the load.
func (l load) rate(do func() error) (float64, error) {
	begin := time.Now()
	err := do()
	return float64(l.count*l.size) / time.Since(begin).Seconds() / 1e9, err
}

func (f *framed) round(c tcpcrypt.Cipher) error {
	l := load{frameOctets / f.Size, f.Size}
	if f.Size < 1000 {
		l.count /= 8 // the smallest take the longest
	}
	seal, open, err := l.frames(c)
	if err != nil {
		return err
	}
	bareSeal, bareOpen, err := l.bare(c)
	f.Seal, f.BareSeal = append(f.Seal, seal), append(f.BareSeal, bareSeal)
	f.Open, f.BareOpen = append(f.Open, open), append(f.BareOpen, bareOpen)
	return err
}

// frames is the load through a tcpcrypt.Conn at each end.
func (l load) frames(c tcpcrypt.Cipher) (seal, open float64, err error) {
	a, b, below, err := connected(c)
	if err != nil {
		return 0, 0, err
	}
	defer a.Abort()
	defer b.Abort()
	data, into := make([]byte, l.size), make([]byte, 256<<10)
	write := func() error {
		for range l.count {
			if _, err := a.Write(data); err != nil {
				return err
			}
		}
		return nil
	}
	below[0].kept = make([]byte, 0, l.count*(l.size+64))
	below[0].keep = true
	if err := write(); err != nil {
		return 0, 0, err
	}
	below[0].keep, below[0].drop = false, true
	below[1].load = below[0].kept
	if open, err = l.rate(func() error {
		for left := l.count * l.size; left > 0; {
			n, err := b.Read(into)
			if left -= n; err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, 0, err
	}
	seal, err = l.rate(write)
	return seal, open, err
}

// bare is the load through the AEAD, in place as a Conn does it, with the copy from and to the application.
func (l load) bare(c tcpcrypt.Cipher) (seal, open float64, err error) {
	aead, err := bareAEAD(c)
	if err != nil {
		return 0, 0, err
	}
	data, nonce := make([]byte, l.size), make([]byte, aead.NonceSize())
	buf := make([]byte, l.size, l.size+aead.Overhead())
	seal, _ = l.rate(func() error {
		for range l.count {
			copy(buf, data)
			aead.Seal(buf[:0], nonce, buf, nil)
		}
		return nil
	})
	sealed := aead.Seal(nil, nonce, data, nil)
	from := make([]byte, len(sealed))
	open, err = l.rate(func() error {
		for range l.count {
			copy(from, sealed)
			if _, err := aead.Open(from[:0], nonce, from, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return seal, open, err
}

func bareAEAD(c tcpcrypt.Cipher) (cipher.AEAD, error) {
	key := make([]byte, c.KeyLen())
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if c == tcpcrypt.ChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
