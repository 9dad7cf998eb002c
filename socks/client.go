package socks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// After a failure the client gets this long to read the reply (RFC 1928, Section 6, allows 10 s), and this many octets
// it sent ahead are taken so that closing does not reset the connection before.
const (
	lingerTime   = 2 * time.Second
	lingerOctets = 64 << 10
)

// failure ends a client's handshake: what is sent before its connection is closed, and why.
type failure struct {
	answer []byte
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func refuse(code Code, err error) error {
	return &failure{answer: AppendReply(nil, Reply{Code: code}), err: err}
}

// handle serves one client from its first octet to its last.
func (s *Server) handle(conn net.Conn) {
	defer conn.Close()
	log := s.Logger.With("client", conn.RemoteAddr())
	timeout := s.HandshakeTimeout
	if timeout <= 0 {
		timeout = DefaultHandshakeTimeout
	}
	conn.SetDeadline(time.Now().Add(timeout))
	dest, err := s.handshake(conn)
	if err != nil {
		s.give(conn, log, slog.LevelWarn, err)
		return
	}
	conn.SetDeadline(time.Time{})
	log = log.With("dest", dest)
	upstream, err := s.dial(conn, dest)
	if err != nil {
		s.give(conn, log, slog.LevelInfo, refuse(CodeOf(err), err))
		return
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	reply := AppendReply(nil, Reply{Code: Succeeded, Bound: bound(upstream)})
	if _, err := conn.Write(reply); err != nil {
		upstream.Close()
		log.Info("socks: client is gone", "err", err)
		return
	}
	conn.SetDeadline(time.Time{})
	log.Debug("socks: connected")
	relay := s.Relay
	if relay == nil {
		relay = simpleRelay
	}
	relay(s.ctx, conn, upstream)
}

// handshake returns where the client wants to go.
func (s *Server) handshake(conn net.Conn) (Address, error) {
	r := &messageReader{r: conn}
	method, err := s.chooseMethod(r)
	if err != nil {
		return Address{}, err
	}
	if _, err := conn.Write(AppendChoice(nil, method)); err != nil {
		return Address{}, err
	}
	if method == UserPassword {
		if err := s.authenticate(conn, r); err != nil {
			return Address{}, err
		}
	}
	return readRequest(r)
}

func (s *Server) chooseMethod(r *messageReader) (Method, error) {
	g, err := read(r, ParseGreeting)
	if err != nil {
		return 0, foreign(r, err)
	}
	method := NoAuth
	if len(s.Users) > 0 {
		method = UserPassword
	}
	if !slices.Contains(g.Methods, method) {
		err := errors.New("no user name and password offered, and they are required here")
		if method == NoAuth {
			err = errors.New("the client does not offer to go without authentication")
		}
		return 0, &failure{answer: AppendChoice(nil, NoAcceptable), err: err}
	}
	return method, nil
}

func (s *Server) authenticate(conn net.Conn, r *messageReader) error {
	u, err := read(r, ParseUser)
	if err != nil {
		return err
	}
	if !known(s.Users, u) {
		return &failure{answer: AppendAuthStatus(nil, false), err: errors.New("wrong user name or password")}
	}
	_, err = conn.Write(AppendAuthStatus(nil, true))
	return err
}

func readRequest(r *messageReader) (Address, error) {
	req, err := read(r, ParseRequest)
	var unknown *AddressTypeError
	switch {
	case errors.As(err, &unknown):
		return Address{}, refuse(AddressTypeNotSupported, err)
	case errors.Is(err, ErrMalformed):
		return Address{}, refuse(GeneralFailure, err)
	case err != nil:
		return Address{}, err
	case req.Command != Connect:
		return Address{}, refuse(CommandNotSupported, errors.New(req.Command.String()+" is not supported"))
	}
	return req.Dest, nil
}

// foreign answers programs that speak another protocol, in that protocol where it is a few octets.
func foreign(r *messageReader, err error) error {
	var version *VersionError
	if !errors.As(err, &version) {
		return err
	}
	switch {
	case version.Got == 4:
		// A SOCKS4 reply: null version, "rejected", port and address.
		return &failure{answer: []byte{0, 0x5b, 0, 0, 0, 0, 0, 0},
			err: errors.New("the client speaks SOCKS4; this is a SOCKS5 port (socks5:// or socks5h://)")}
	case version.Got == 0x16:
		return &failure{err: errors.New("the client speaks TLS; this is a SOCKS5 port")}
	case bytes.IndexByte([]byte("CDGHOPT"), version.Got) >= 0:
		const text = "This is a SOCKS5 port, not an HTTP proxy: use socks5h:// in place of http://.\n"
		return &failure{answer: []byte("HTTP/1.0 501 SOCKS5 only\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + text),
			err: errors.New("the client speaks HTTP; this is a SOCKS5 port")}
	}
	return err
}

// give sends what a failed handshake has to say, if anything, and logs why.
func (s *Server) give(conn net.Conn, log *slog.Logger, level slog.Level, err error) {
	if s.ctx.Err() != nil {
		return
	}
	var f *failure
	if !errors.As(err, &f) {
		if err == io.EOF { // connected and left without a word, as a port check does
			log.Debug("socks: client said nothing")
			return
		}
		log.Log(s.ctx, level, "socks: handshake failed", "err", err)
		if errors.Is(err, ErrMalformed) {
			linger(conn)
		}
		return
	}
	log.Log(s.ctx, level, "socks: refused", "err", f.err)
	conn.SetWriteDeadline(time.Now().Add(lingerTime))
	if _, err := conn.Write(f.answer); err == nil {
		linger(conn)
	}
}

// linger closes conn such that the peer can read what it was sent: a close with octets unread would reset it.
func linger(conn net.Conn) {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok || c.CloseWrite() != nil {
		return
	}
	conn.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, conn, lingerOctets)
}

var errHangup = errors.New("the client hung up before it was connected")

// dial connects to dest and gives up when the client does.
func (s *Server) dial(conn net.Conn, dest Address) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	stop := watchHangup(conn, func() { cancel(errHangup) })
	upstream, err := s.Dial(ctx, "tcp", dest.String())
	stop()
	if cause := context.Cause(ctx); cause != nil {
		if err == nil {
			upstream.Close()
		}
		return nil, cause
	}
	return upstream, err
}

// watchHangup calls gone if conn's peer ends the connection before stop is called. Octets sent ahead stay unread. It
// needs a kernel socket; on anything else it does nothing.
func watchHangup(conn net.Conn, gone func()) (stop func()) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended := false
		raw.Read(func(fd uintptr) bool {
			var one [1]byte
			n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			switch {
			case err == syscall.EAGAIN, n > 0:
				return false // more will wake it
			}
			ended = true
			return true
		})
		if ended {
			gone()
		}
	}()
	return func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		<-done
		conn.SetReadDeadline(time.Time{})
	}
}

// bound is the address the connection goes out from, as the reply gives it.
func bound(conn net.Conn) Address {
	addr := conn.LocalAddr()
	if addr == nil {
		return Address{}
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return Address{}
	}
	return Address{IP: ap.Addr().Unmap().WithZone(""), Port: ap.Port()}
}

// messageReader reads messages whose length shows only as they are read, and never an octet beyond: what follows the
// last belongs to the connection itself.
type messageReader struct {
	r   io.Reader
	buf []byte
}

// read returns the next message that parse understands.
func read[T any](r *messageReader, parse func([]byte) (T, int, error)) (T, error) {
	r.buf = r.buf[:0]
	for {
		v, _, err := parse(r.buf)
		var short *TruncatedError
		if !errors.As(err, &short) {
			return v, err
		}
		have := len(r.buf)
		r.buf = append(r.buf, make([]byte, short.Missing)...)
		n, err := io.ReadFull(r.r, r.buf[have:])
		if err != nil {
			if have+n > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return v, err
		}
	}
}
