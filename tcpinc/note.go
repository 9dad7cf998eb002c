package tcpinc

import (
	"sync"

	"innertun/tcpinc/tcpcrypt"
)

// sessionNote is what is kept with a cached session: what the peer has said in its hello, which a resumed connection
// inherits, and the application's own note.
type sessionNote struct {
	mu    sync.Mutex
	hello *peerHello // nil: none was read
	user  any
}

// noteOf returns the note of the session of a connection; a new session gets one. It is called once a connection.
func noteOf(crypt *tcpcrypt.Conn) *sessionNote {
	if n, ok := crypt.SessionNote().(*sessionNote); ok {
		return n
	}
	n := new(sessionNote)
	crypt.SetSessionNote(n)
	return n
}

func (n *sessionNote) setHello(h *peerHello) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hello = h
}

func (n *sessionNote) setUser(note any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.user = note
}

// read returns both parts; a nil note has none.
func (n *sessionNote) read() (*peerHello, any) {
	if n == nil {
		return nil, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hello, n.user
}

// mayResume reports whether a session with that note serves for a connection under cfg: one that is to be proven needs a
// session whose peer has proven itself.
func (cfg Config) mayResume(note any) bool {
	n, _ := note.(*sessionNote)
	said, user := n.read()
	if cfg.auth != nil && (said == nil || said.identity == nil) {
		return false
	}
	return cfg.Resumable == nil || cfg.Resumable(user)
}
