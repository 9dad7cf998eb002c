package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// maxFile bounds a file sent to a server, in octets.
const maxFile = 64 << 20

// site is what each server serves: a page about the connection it came over, and a file that can be replaced.
type site struct {
	host     string
	describe func(net.Conn) string // what this end knows of a connection

	mu   sync.Mutex
	file []byte
}

type connKey struct{}

// server returns an HTTP server whose handlers know the connection they answer on.
func (s *site) server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /file", s.get)
	mux.HandleFunc("PUT /file", s.put)
	return &http.Server{
		Handler:     mux,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

func (s *site) page(w http.ResponseWriter, r *http.Request) {
	text := fmt.Sprintf("Hello from %s.\n\n%s\n\nGET /file gives the file that was sent here last; PUT /file replaces it.\n",
		s.host, s.describe(r.Context().Value(connKey{}).(net.Conn)))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, text)
}

func (s *site) get(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	file := s.file
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(file)
}

// put keeps the body and answers with its SHA-256.
func (s *site) put(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFile))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.file = body
	s.mu.Unlock()
	sum := sha256.Sum256(body)
	io.WriteString(w, hex.EncodeToString(sum[:]))
}

// makeFile returns text of exactly this many octets, each line of it different, that a reader of a capture would know
// at sight.
func makeFile(host string, size int) []byte {
	var b []byte
	for line := 1; len(b) < size; line++ {
		b = fmt.Appendf(b, "%07d  This is line %d of a private file on its way to %s.\n", line, line, host)
	}
	return b[:size]
}
