package tcpinc_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// A connection that came up without its Handshake, as after a SYN cookie, is plain; but a peer that believes to encrypt is not
// taken at its word.
func TestListenerWithoutHandshake(t *testing.T) {
	for name, test := range map[string]struct {
		policy tcpinc.Policy
		sent   []byte
		reason eno.Reason
		err    error
	}{
		"plain":       {tcpinc.Opportunistic, []byte("GET / HTTP/1.1\r\n"), eno.PeerNoENO, nil},
		"Init1":       {tcpinc.Opportunistic, append(binary.BigEndian.AppendUint32(nil, tcpcrypt.Init1Magic), "and more"...), eno.PeerNoENO, tcpinc.ErrInitInPlain},
		"policy off":  {tcpinc.Off, binary.BigEndian.AppendUint32(nil, tcpcrypt.Init1Magic), eno.PolicyOff, nil},
		"not allowed": {tcpinc.Require, nil, eno.NoReason, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			here, peer := crypttest.Pipe(crypttest.Options{})
			first, closed := make(chan tcpinc.Transport, 1), make(chan struct{})
			first <- here
			refused := make(chan error, 1)
			l, err := tcpinc.Listen(tcpinc.ListenConfig{
				Policy: test.policy,
				Accept: func() (tcpinc.Transport, *tcpinc.Handshake, error) {
					select {
					case c := <-first:
						return c, nil, nil
					case <-closed:
						return nil, nil, net.ErrClosed
					}
				},
				Close:  func() error { close(closed); return nil },
				Failed: func(_ net.Addr, err error) { refused <- err },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if test.policy == tcpinc.Require {
				if err := <-refused; !errors.Is(err, tcpinc.ErrEncryptionRequired) {
					t.Fatal(err)
				}
				return
			}
			c, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Abort()
			if got := c.ConnectionState().FallbackReason; got != test.reason {
				t.Errorf("reason %v, want %v", got, test.reason)
			}
			if _, err := peer.Write(test.sent); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, err := io.ReadAtLeast(c, buf, len(test.sent)) // the octets that were looked at come by themselves
			if !errors.Is(err, test.err) || err == nil && string(buf[:n]) != string(test.sent) {
				t.Errorf("read %q, %v", buf[:n], err)
			}
		})
	}
}
