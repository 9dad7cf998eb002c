package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"innertun/cmd/internal/conns"
)

// NotRunningError says that there is no daemon to talk to.
type NotRunningError struct{ Path string }

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("no daemon is listening at %s: start one with innertun run, socks or serve, or name its socket with -control", e.Path)
}

// Client asks a daemon through its control socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a Client of the socket at path.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: 64 << 10},
		Timeout: 30 * time.Second,
	}}
}

// Status asks for GET /status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.ask(ctx, http.MethodGet, "/status", func(r io.Reader) error { return json.NewDecoder(r).Decode(&st) })
	return st, err
}

// Conns asks for GET /conns.
func (c *Client) Conns(ctx context.Context) ([]conns.Info, error) {
	return lines[conns.Info](ctx, c, "/conns")
}

// Paths asks for GET /paths.
func (c *Client) Paths(ctx context.Context) ([]Path, error) { return lines[Path](ctx, c, "/paths") }

// FlushPaths asks for POST /paths/flush; an invalid address stands for all faults.
func (c *Client) FlushPaths(ctx context.Context, to netip.AddrPort) (Flushed, error) {
	return c.flush(ctx, "/paths/flush", to)
}

// Sessions asks for GET /sessions.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	return lines[Session](ctx, c, "/sessions")
}

// FlushSessions asks for POST /sessions/flush; an invalid address stands for all sessions.
func (c *Client) FlushSessions(ctx context.Context, to netip.AddrPort) (Flushed, error) {
	return c.flush(ctx, "/sessions/flush", to)
}

func (c *Client) flush(ctx context.Context, path string, to netip.AddrPort) (Flushed, error) {
	switch {
	case to.Port() != 0:
		path += "?destination=" + url.QueryEscape(to.String())
	case to.Addr().IsValid():
		path += "?destination=" + url.QueryEscape(to.Addr().String())
	}
	var f Flushed
	err := c.ask(ctx, http.MethodPost, path, func(r io.Reader) error { return json.NewDecoder(r).Decode(&f) })
	return f, err
}

// lines asks for one object a line.
func lines[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	var all []T
	err := c.ask(ctx, http.MethodGet, path, func(r io.Reader) error {
		for dec := json.NewDecoder(r); ; {
			var v T
			switch err := dec.Decode(&v); {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			}
			all = append(all, v)
		}
	})
	return all, err
}

func (c *Client) ask(ctx context.Context, method, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://innertun"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreached(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		said := strings.TrimSpace(string(text))
		if said != "" && (resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusConflict) {
			return errors.New(said) // the daemon's own words
		}
		return fmt.Errorf("%s answers %s: %s", c.path, resp.Status, said)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("%s: unexpected answer: %w", c.path, err)
	}
	return nil
}

// unreached says what to do about a daemon that cannot be reached.
func (c *Client) unreached(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return &NotRunningError{Path: c.path}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be used by its owner only: run this as the user of the daemon, usually root", c.path)
	}
	return fmt.Errorf("%s does not answer as a daemon does: %w", c.path, err)
}
