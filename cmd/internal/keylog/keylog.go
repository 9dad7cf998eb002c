// Package keylog writes traffic keys to a file, one line for each connection and key generation, so that a capture can
// be decrypted later:
//
//	TCPCRYPT <session id> <generation> <k_ab> <k_ba> <cipher> <host A ip:port> <host B ip:port>
//
// Keys of early data, which travels in a SYN, have a line of their own that begins with TCPCRYPT-EARLY; those of the proof that
// a SYN-ACK-U can hold, one with TCPCRYPT-PROOF.
//
// Octets are in hex; a key is the whole traffic key, that is the key and then the nonce randomizer (RFC 8548, Section
// 3.3); the generation is decimal, and the cipher its number as four hex digits (RFC 8548, Section 7).
package keylog

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"

	"innertun/tcpinc"
)

// File is an open key log. It may be used from any goroutine.
type File struct {
	log  *slog.Logger
	name string

	mu     sync.Mutex
	f      io.WriteCloser // nil once closed
	failed bool
	torn   bool // the last line has no end
}

// Open opens a file to append to, and makes it if need be. Only its owner may read and write it; a file that others may
// read, or that is no regular file, is an error. The log gets a warning; it may be nil.
func Open(name string, log *slog.Logger) (*File, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key log: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", name)
	case info.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("others may use %s (mode %04o): chmod 600 it, or name another file", name, info.Mode().Perm())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("key log: %w", err)
	}
	log.Warn("traffic keys are written to a file: whoever reads it can decrypt these connections", "file", name)
	return &File{f: f, name: name, log: log}, nil
}

// Log writes one line, in one write, and then erases the entry's keys. A failure is logged once; connections go on.
func (k *File) Log(e tcpinc.KeyLogEntry) {
	line := AppendLine(nil, e)
	defer func() {
		clear(line)
		clear(e.KAB)
		clear(e.KBA)
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.f == nil {
		return
	}
	if k.torn {
		if _, err := k.f.Write([]byte{'\n'}); err != nil {
			return
		}
		k.torn = false
	}
	n, err := k.f.Write(line)
	k.torn = 0 < n && n < len(line)
	if err != nil && !k.failed {
		k.failed = true
		k.log.Error("the key log is incomplete", "file", k.name, "err", err)
	}
}

// Close closes the file; later entries are dropped.
func (k *File) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.f == nil {
		return nil
	}
	err := k.f.Close()
	k.f = nil
	return err
}

// AppendLine appends the line of e, with its line end. It never reallocates dst's octets of keys elsewhere than in the
// slice it returns, which the caller may clear.
func AppendLine(dst []byte, e tcpinc.KeyLogEntry) []byte {
	need := 96 + 2*(len(e.SessionID)+len(e.KAB)+len(e.KBA)) + 2*64
	if cap(dst)-len(dst) < need {
		dst = append(make([]byte, 0, len(dst)+need), dst...)
	}
	dst = append(dst, "TCPCRYPT"...)
	switch {
	case e.Early:
		dst = append(dst, "-EARLY"...)
	case e.First:
		dst = append(dst, "-PROOF"...)
	}
	dst = append(dst, ' ')
	dst = append(hex.AppendEncode(dst, e.SessionID), ' ')
	dst = append(strconv.AppendUint(dst, uint64(e.Generation), 10), ' ')
	dst = append(hex.AppendEncode(dst, e.KAB), ' ')
	dst = append(hex.AppendEncode(dst, e.KBA), ' ')
	dst = fmt.Appendf(dst, "%04x %s %s\n", uint16(e.Cipher), endpoint(e.HostA), endpoint(e.HostB))
	return dst
}

// endpoint writes an address as ip:port, an IPv4-mapped one as IPv4; "-" if it is not known.
func endpoint(a net.Addr) string {
	if a == nil {
		return "-"
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return "-"
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}
