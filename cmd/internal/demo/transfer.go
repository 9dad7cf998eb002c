package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"
)

// exchange is what the client's application knows after its transfer.
type exchange struct {
	first  time.Time // when the first octet of the first reply was there
	intact bool      // the server's hash of the file is the client's
	sent   []byte    // all the application wrote
	got    []byte    // all it read
}

// talk is the application: over one connection it asks for the page and then sends the file. It knows nothing of how
// its octets travel.
func talk(conn io.ReadWriter, host string, file []byte, now func() time.Time) (exchange, error) {
	var x exchange
	var sent, got bytes.Buffer
	out := bufio.NewWriterSize(io.MultiWriter(conn, &sent), 64<<10)
	in := bufio.NewReader(io.TeeReader(conn, &got))

	hello, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		return x, err
	}
	if err := send(hello, out); err != nil {
		return x, fmt.Errorf("asking for the page: %w", err)
	}
	if _, err := in.Peek(1); err != nil {
		return x, fmt.Errorf("waiting for the page: %w", err)
	}
	x.first = now()
	if _, err := receive(hello, in); err != nil {
		return x, fmt.Errorf("reading the page: %w", err)
	}

	upload, err := http.NewRequest(http.MethodPut, "http://"+host+"/file", bytes.NewReader(file))
	if err != nil {
		return x, err
	}
	if err := send(upload, out); err != nil {
		return x, fmt.Errorf("sending the file: %w", err)
	}
	answer, err := receive(upload, in)
	if err != nil {
		return x, fmt.Errorf("reading the server's hash: %w", err)
	}
	sum := sha256.Sum256(file)
	x.intact = answer == hex.EncodeToString(sum[:])
	x.sent, x.got = sent.Bytes(), got.Bytes()
	return x, nil
}

func send(r *http.Request, out *bufio.Writer) error {
	if err := r.Write(out); err != nil {
		return err
	}
	return out.Flush()
}

func receive(r *http.Request, in *bufio.Reader) (string, error) {
	answer, err := http.ReadResponse(in, r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), nil
}

// transfer sends a file to one server and sets what the ends know beside what passed the tap.
func (w *world) transfer(ctx context.Context, name string, s *server, by way, size int) (Transfer, error) {
	t := Transfer{Name: name, host: s.name, Bytes: size}
	file := makeFile(s.name, size) // before the clock runs
	app, err := w.conn(ctx, s.addr, by)
	if err != nil {
		return t, fmt.Errorf("connecting to %s: %w", s.name, err)
	}
	x, err := talk(app, s.name, file, w.clock.Now)
	if app.Conn == nil {
		return t, fmt.Errorf("connecting to %s: %w", s.name, err)
	}
	conn := app.Conn
	defer conn.Close()
	if err != nil {
		return t, fmt.Errorf("%s: %w", s.name, err)
	}

	client := addrPort(conn.LocalAddr())
	state := stateOf(conn)
	t.SHA256OK = x.intact
	t.Encrypted, t.resumed, t.reason = state.encrypted, state.resumed, state.reason
	t.innerSpace, t.earlyData = state.innerSpace, state.earlyData
	t.TEP, t.Cipher, t.SessionID = state.tep, state.cipher, state.sessionID
	t.serverID = s.sessionOf(client)

	seen := overhear(w.tap.Packets(), client, s.addr)
	t.RoundTrips = roundTrips(x.first.Sub(seen.syn), w.rtt)
	t.PlaintextOnWire = seen.seesAny(x.sent) || seen.seesAny(x.got)
	t.sent, t.seen = x.sent, seen.applications()
	t.opening = seen.opening(x.first)
	return t, nil
}
