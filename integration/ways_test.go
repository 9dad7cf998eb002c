package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"innertun/integration/netlab"
)

// way is one of the two ways for an application to reach innertun.
type way struct {
	name string
	dial func(ctx context.Context, address string) (net.Conn, error)
	curl []string // extra arguments
}

// ways returns both ways from a host: the TUN, with nothing but a plain connect, and the SOCKS5 port.
func ways(h *netlab.Host) []way {
	return []way{
		{name: "tun", dial: func(ctx context.Context, address string) (net.Conn, error) { return h.Dial(ctx, "tcp", address) }},
		{name: "socks", dial: func(ctx context.Context, address string) (net.Conn, error) { return dialSOCKS(ctx, h, address) },
			curl: []string{"--socks5", "127.0.0.1:1080"}},
	}
}

// family is an address family with the server's address in it.
type family struct {
	name   string
	client netip.Addr
	server netip.Addr
}

func families() []family {
	return []family{{"ipv4", netlab.ClientIP4, netlab.ServerIP4}, {"ipv6", netlab.ClientIP6, netlab.ServerIP6}}
}

func (f family) at(port uint16) string { return netip.AddrPortFrom(f.server, port).String() }

// socksError is a SOCKS5 reply other than success (RFC 1928, Section 6).
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("SOCKS5 reply %d", byte(e)) }

func dialSOCKS(ctx context.Context, h *netlab.Host, address string) (net.Conn, error) {
	c, err := h.Dial(ctx, "tcp", "127.0.0.1:1080")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = requestSOCKS(c, netip.MustParseAddrPort(address))
	if !stop() && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func requestSOCKS(c net.Conn, to netip.AddrPort) error {
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return err
	}
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil {
		return fmt.Errorf("method: %w", err)
	}
	if method != [2]byte{5, 0} {
		return fmt.Errorf("%w method reply % x", errUnexpected, method)
	}
	request := []byte{5, 1, 0, 1}
	if to.Addr().Is6() {
		request[3] = 4
	}
	request = append(request, to.Addr().AsSlice()...)
	if _, err := c.Write(append(request, byte(to.Port()>>8), byte(to.Port()))); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	n := map[byte]int{1: 4, 4: 16}[head[3]]
	if head[0] != 5 || n == 0 {
		return fmt.Errorf("%w reply % x", errUnexpected, head)
	}
	if _, err := io.ReadFull(c, make([]byte, n+2)); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if head[1] != 0 {
		return socksError(head[1])
	}
	return nil
}

// get fetches octets [from, to) of the web server's file, with a connection of its own.
func get(ctx context.Context, w way, address string, from, to int) ([]byte, error) {
	return do(ctx, w, address, fmt.Sprintf("GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=%d-%d\r\n\r\n", from, to-1), nil)
}

// put uploads a body.
func put(ctx context.Context, w way, address, name string, body []byte) error {
	_, err := do(ctx, w, address, fmt.Sprintf("PUT /up/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n",
		name, len(body)), body)
	return err
}

func do(ctx context.Context, w way, address, head string, body []byte) ([]byte, error) {
	c, err := w.dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.Write([]byte(head)); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	if _, err := c.Write(body); err != nil {
		return nil, fmt.Errorf("send body: %w", err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, fmt.Errorf("response: %w", err)
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("body after %d octets: %w", len(got), err)
	}
	if r.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%w HTTP status %s", errUnexpected, r.Status)
	}
	return got, nil
}

// pattern returns n octets that differ by seed and from place to place.
func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	block := sha256.Sum256([]byte{seed})
	for i := 0; i < n; i += len(block) {
		copy(b[i:], block[:])
		block = sha256.Sum256(block[:])
	}
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// askSum sends data to an origin that answers with the hash of all it was sent, and checks the answer. The data's
// end is told by half-closing.
func askSum(c net.Conn, data []byte) error {
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return fmt.Errorf("half-close: %w", err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if !bytes.Equal(answer, []byte(sum(data))) {
		return fmt.Errorf("%w answer %.80q, want %s", errUnexpected, answer, sum(data))
	}
	return nil
}

// answerSum is that origin.
func answerSum(c *net.TCPConn) {
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		_, _ = io.WriteString(c, hex.EncodeToString(h.Sum(nil))) // the client will miss it
	}
}
