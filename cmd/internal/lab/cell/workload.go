package cell

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// errGarbled says that octets arrived that were not sent.
var errGarbled = errors.New("octets arrived that were not sent")

// text is what the applications say: printable, each line different, so that a reader of a capture knows it at sight, and
// what comes is known to the octet. A request begins as one of HTTP does.
type text struct {
	head string
	seed uint64
}

const (
	marker     = "of the lab's plaintext " // stands in every line
	lineFormat = "%016x line %08d " + marker + "\n"
)

func upText(seed uint64) text   { return text{"GET / HTTP/1.1\r\nHost: lab\r\n\r\n", seed} }
func downText(seed uint64) text { return text{"HTTP/1.1 200 OK\r\n\r\n", ^seed} }

// fill writes the octets from an offset of the stream on.
func (t text) fill(b []byte, offset int64) {
	n := 0
	if offset < int64(len(t.head)) {
		n = copy(b, t.head[offset:])
	}
	at := offset + int64(n) - int64(len(t.head))
	length := int64(len(fmt.Sprintf(lineFormat, t.seed, 0)))
	for n < len(b) {
		line := fmt.Sprintf(lineFormat, t.seed, (at/length)%100_000_000)
		c := copy(b[n:], line[at%length:])
		n, at = n+c, at+int64(c)
	}
}

const chunk = 64 << 10

// send writes n octets of the stream.
func (t text) send(w io.Writer, offset int64, n int) (sent int64, err error) {
	b := make([]byte, min(n, chunk))
	for n > 0 && err == nil {
		b = b[:min(n, chunk)]
		t.fill(b, offset+sent)
		var m int
		m, err = w.Write(b)
		sent, n = sent+int64(m), n-m
	}
	return sent, err
}

// expect reads n octets and compares them; first is called once when the first is there.
func (t text) expect(r io.Reader, offset int64, n int, first func()) (got int64, err error) {
	b, want := make([]byte, min(n, chunk)), make([]byte, min(n, chunk))
	for n > 0 {
		m, err := r.Read(b[:min(n, chunk)])
		if m > 0 && first != nil {
			first()
			first = nil
		}
		t.fill(want[:m], offset+got)
		if !bytes.Equal(b[:m], want[:m]) {
			return got, fmt.Errorf("%w, within %d octets behind the first %d", errGarbled, m, offset+got)
		}
		got, n = got+int64(m), n-m
		if n == 0 {
			return got, nil
		}
		if err == io.EOF {
			return got, io.ErrUnexpectedEOF
		}
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

// end wants the end of the stream.
func end(r io.Reader) error {
	var b [1]byte
	n, err := io.ReadFull(r, b[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: more than there should be", errGarbled)
	case err == io.EOF:
		return nil
	}
	return err
}

// stream is a connection as the applications know it.
type stream interface {
	io.ReadWriter
	CloseWrite() error
}

// client is the client's application. note is told of moments.
func (w Workload) client(c stream, seed uint64, sleep func(time.Duration), note *notes) error {
	for round := range w.Rounds {
		if round > 0 {
			sleep(w.Idle)
		}
		begun := int64(0)
		if round == 0 {
			begun, note.sent = note.begun, note.begun
		}
		n, err := upText(seed).send(c, int64(round)*int64(w.Up)+begun, w.Up-int(begun))
		note.sent += n
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		var first func()
		if round == 0 {
			first = note.first
		}
		n, err = downText(seed).expect(c, int64(round)*int64(w.Down), w.Down, first)
		note.received += n
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("ending: %w", err)
	}
	if err := end(c); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return nil
}

// notes are what the client's application counts.
type notes struct {
	sent, received int64
	begun          int64 // octets of the first round that were sent already
	first          func()
}

// server is the server's application.
func (w Workload) server(c stream, seed uint64) error {
	for round := range w.Rounds {
		if _, err := upText(seed).expect(c, int64(round)*int64(w.Up), w.Up, nil); err != nil {
			return err
		}
		if _, err := downText(seed).send(c, int64(round)*int64(w.Down), w.Down); err != nil {
			return err
		}
	}
	if err := end(c); err != nil {
		return err
	}
	return c.CloseWrite()
}
