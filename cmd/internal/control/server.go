// Package control is the daemon's control socket: HTTP and JSON over a Unix socket that only its owner can reach, and
// the client side of `innertun status`, `conns`, `paths` and `sessions`.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"innertun/cmd/internal/conns"
	"innertun/tcpinc/identity"
)

// Bounds on what a client of the socket may cost.
const (
	maxClients     = 32
	maxHeader      = 8 << 10 // octets
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	maxPath        = 107 // octets of a Unix socket's address, less the NUL
)

// Status is what GET /status answers: every key is always there.
type Status struct {
	Version    string       `json:"version"`
	PID        int          `json:"pid"`
	Uptime     float64      `json:"uptime_ms"`
	Interface  string       `json:"interface"`
	Link       string       `json:"interface_state"` // LinkUp, LinkDown, LinkNoAddress or LinkGone
	Egress     string       `json:"egress"`          // the way out: "packet"; "" if there is none
	Active     int          `json:"active"`          // connections that are there now
	Totals     conns.Totals `json:"totals"`
	Downgrades uint64       `json:"downgrades"`
}

// What an interface may be.
const (
	LinkUp        = "up"
	LinkDown      = "down"
	LinkNoAddress = "no-address"
	LinkGone      = "gone"
)

// Source is where the answers come from. Its functions are called from several goroutines.
type Source struct {
	Status func() Status
	Conns  func() []conns.Info
	Paths  func() []Path
	Peers  func() ([]Peer, error)
	// AcceptPeer makes a key the one that a destination is known by, nil: the one for which it was refused last. ForgetPeer
	// returns whether it was known.
	AcceptPeer func(destination string, key *identity.PublicKey) (AcceptedPeer, error)
	ForgetPeer func(destination string) (bool, error)
	// FlushPaths forgets what is known of a destination, port 0: of all its ports, or where the address is not valid all
	// faults. It returns how many entries there were.
	FlushPaths func(to netip.AddrPort) int
	Sessions   func() []Session
	// FlushSessions drops the sessions of a peer, port 0: whoever opened the connections, or where the address is not valid
	// all. It returns how many there were.
	FlushSessions func(to netip.AddrPort) int
	// Capture writes a capture of the wire interface until ctx ends; see package capture, whose Hub.Run it is.
	Capture func(ctx context.Context, w io.Writer, keys bool, started func(), flush func() error) error
}

// InUseError says that somebody listens at the path already.
type InUseError struct {
	Path string
	PID  int // 0: it gave no good answer
}

func (e *InUseError) Error() string {
	who := "another program"
	if e.PID != 0 {
		who = fmt.Sprintf("an innertun with pid %d", e.PID)
	}
	return fmt.Sprintf("%s is listening at %s: stop it first, or choose another socket with -control", who, e.Path)
}

// Server answers on a control socket.
type Server struct {
	path string
	own  os.FileInfo // the socket's file, to know it again
	http *http.Server
	done chan struct{}
}

// Listen makes the socket and answers on it until Close. A socket file that nobody listens at is replaced; one where
// somebody does is an *InUseError. The folder is made if need be.
func Listen(path string, src Source, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := vacate(path); err != nil {
		return nil, err
	}
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	own, err := os.Lstat(path)
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &Server{path: path, own: own, done: make(chan struct{})}
	s.http = &http.Server{
		Handler:           handler(src),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       requestTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(netutil.LimitListener(ln, maxClients)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket", "err", err)
		}
	}()
	return s, nil
}

// vacate makes sure that nobody listens at path, and that nothing but a socket is replaced.
func vacate(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control socket: %s is there and is no socket: remove it, or choose another with -control", path)
	}
	conn, err := net.DialTimeout("unix", path, headerTimeout)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) { // left behind
			return nil
		}
		return fmt.Errorf("control socket: %w", err)
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	st, err := NewClient(path).Status(ctx)
	if err != nil {
		return &InUseError{Path: path}
	}
	return &InUseError{Path: path, PID: st.PID}
}

// listenPrivate binds the socket in a folder nobody else can enter, takes everybody else's rights away, and only then
// moves it to where it can be found. (The umask would do too, but it is the whole process's.)
func listenPrivate(path string) (*net.UnixListener, error) {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, ".c")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	hidden := filepath.Join(dir, "s")
	if len(path) > maxPath || len(hidden) > maxPath {
		return nil, fmt.Errorf("%s is too long for a Unix socket: choose a shorter one with -control", path)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it would look at the hidden name
	if err := os.Chmod(hidden, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	if err := os.Rename(hidden, path); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// Close ends all requests and removes the socket, unless somebody has replaced it.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	if info, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(info, s.own) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

func handler(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		st := src.Status()
		if st.Totals.Plain == nil {
			st.Totals.Plain = map[string]uint64{}
		}
		if st.Totals.Failed == nil {
			st.Totals.Failed = map[string]uint64{}
		}
		writeJSON(w, st)
	})
	mux.HandleFunc("GET /conns", func(w http.ResponseWriter, _ *http.Request) { writeLines(w, src.Conns()) })
	mux.HandleFunc("GET /paths", func(w http.ResponseWriter, _ *http.Request) { writeLines(w, src.Paths()) })
	peerRoutes(mux, src)
	mux.HandleFunc("POST /paths/flush", flush(src.FlushPaths))
	mux.HandleFunc("GET /sessions", func(w http.ResponseWriter, _ *http.Request) { writeLines(w, src.Sessions()) })
	mux.HandleFunc("POST /sessions/flush", flush(src.FlushSessions))
	mux.HandleFunc("POST /capture", captureHandler(src))
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// writeLines writes one object a line.
func writeLines[T any](w http.ResponseWriter, all []T) {
	w.Header().Set("Content-Type", "application/jsonl")
	enc := json.NewEncoder(w)
	for _, v := range all {
		if enc.Encode(v) != nil {
			return
		}
	}
}
