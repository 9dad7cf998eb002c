package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/netlab"
)

// wiretap sits on the router, sees the segments that pass, and forges RSTs with the sequence numbers that the two ends
// expect: what it knows it has from the client's last acknowledgment.
type wiretap struct {
	sniff, raw int
	stop       chan struct{}
	all        sync.WaitGroup

	mu   sync.Mutex
	last []byte // IPv4 and TCP header of the client's last segment
	from uint32 // the first acknowledgment number seen
	err  error
}

func newWiretap(t *testing.T, h *netlab.Host) *wiretap {
	t.Helper()
	w := &wiretap{stop: make(chan struct{})}
	if err := h.Do(func() (err error) {
		var err2 error
		w.sniff, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
		w.raw, err2 = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
	w.all.Go(w.listen)
	t.Cleanup(func() {
		close(w.stop)
		w.all.Wait()
		unix.Close(w.sniff)
		unix.Close(w.raw)
	})
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wiretap) over() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

func (w *wiretap) listen() {
	b := make([]byte, 128)
	client := netlab.ClientIP4.As4()
	for !w.over() {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(w.sniff), Events: unix.POLLIN}}, 50); n != 1 {
			continue
		}
		n, _, err := unix.Recvfrom(w.sniff, b, unix.MSG_DONTWAIT)
		if err != nil || n < 40 || b[0] != 0x45 || b[9] != unix.IPPROTO_TCP || [4]byte(b[12:16]) != client ||
			binary.BigEndian.Uint16(b[22:]) != 80 || b[33]&(syn|rst|fin) != 0 {
			continue
		}
		payload := binary.BigEndian.Uint16(b[2:]) - 20 - uint16(b[32]>>4)*4
		w.mu.Lock()
		if w.last == nil {
			w.from = binary.BigEndian.Uint32(b[28:])
		}
		w.last = append(w.last[:0], b[:40]...)
		binary.BigEndian.PutUint32(w.last[24:], binary.BigEndian.Uint32(w.last[24:])+uint32(payload))
		w.mu.Unlock()
	}
}

// forge sends a RST to each end.
func (w *wiretap) forge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	toServer := append([]byte(nil), w.last...)
	toClient := append([]byte(nil), w.last...)
	copy(toClient[12:], w.last[16:20])
	copy(toClient[16:], w.last[12:16])
	copy(toClient[20:], w.last[22:24])
	copy(toClient[22:], w.last[20:22])
	copy(toClient[24:], w.last[28:32])
	w.err = errors.Join(w.err, w.send(toServer), w.send(toClient))
}

func (w *wiretap) send(p []byte) error {
	binary.BigEndian.PutUint16(p[2:], 40)
	clear(p[28:32])
	p[32], p[33] = 5<<4, rst
	clear(p[36:40])
	pseudo := append(append([]byte(nil), p[12:20]...), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(p[36:], checksum(append(pseudo, p[20:]...)))
	return unix.Sendto(w.raw, p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:20])})
}

// attack forges a hundred RSTs a second for as long as the test goes on, from when the client has some of the file. Once it
// has done so a number of times, each at another moment, it calls enough.
func (w *wiretap) attack(times int, enough func()) {
	w.all.Go(func() {
		var begun time.Time
		forged := 0
		for !w.over() {
			time.Sleep(10 * time.Millisecond)
			w.mu.Lock()
			seen := w.last != nil && binary.BigEndian.Uint32(w.last[28:])-w.from > 1<<20
			w.mu.Unlock()
			if seen && begun.IsZero() {
				begun = time.Now()
			}
			if begun.IsZero() {
				continue
			}
			// As many as are due, if this thread could not run for a while.
			due := int(time.Since(begun) / (10 * time.Millisecond))
			if forged == due {
				continue
			}
			for ; forged < due; forged++ {
				w.forge()
			}
			if times--; times == 0 {
				enough()
			}
		}
	})
}

// TestForgedResets downloads with curl while somebody on the path forges RSTs with the right sequence numbers, a hundred
// a second towards both ends. By default the transfer is completed; under accept it breaks, as plain TCP would.
func TestForgedResets(t *testing.T) {
	// More than all buffers on the way hold: when the attack begins, most of it is still to be sent.
	const size, rate = 96 << 20, "32M"
	t.Parallel()
	for _, mode := range []string{"verify", "authenticate", "accept"} {
		t.Run(mode, func(t *testing.T) {
			lab := netlab.New(t, netlab.Options{})
			web := lab.Server.StartNginx(t, size, "127.0.0.1:8080")
			setting := fmt.Sprintf("[tcpinc]\nrst = %q\n", mode)
			server := startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n"+setting+"[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\n")
			client := startRun(t, lab.Client, "[egress]\ninterface = \"eth0\"\n"+setting+"[socks]\nlisten = \"127.0.0.1:1080\"\n")
			capture := lab.Capture(t, "c0", 128, "tcp")
			dir := shortDir(t) // before the tap, which ends first then
			tap := newWiretap(t, lab.Router)
			// Who forges may not be able to run for a while: the rest of the file is not taken before the attack has been made.
			const first = "33554432"
			times := map[string]int{"verify": 60, "authenticate": 60, "accept": 300}[mode]
			attacked, over := filepath.Join(dir, "attacked"), filepath.Join(dir, "over")
			tap.attack(times, func() {
				if err := os.WriteFile(attacked, nil, 0o600); err != nil {
					t.Error(err)
				}
			})
			out := lab.Client.Run(t.Context(), "sh", "-c", "{ curl -sSf --max-time 300 --limit-rate "+rate+
				" --socks5 127.0.0.1:1080 http://198.18.2.2:80/file; : >"+over+"; } | "+
				"{ head -c "+first+"; until [ -e "+attacked+" -o -e "+over+" ]; do sleep 0.05; done; cat; } | sha256sum")
			hash, _, _ := strings.Cut(out.Stdout, " ")
			complete := hash == web.SHA256
			if want := mode != "accept"; complete != want {
				t.Errorf("complete: %v, want %v: %s\nclient: %s\nserver: %s", complete, want, out.Stderr, tail(client.Log()), tail(server.Log()))
			}
			tap.mu.Lock()
			if tap.err != nil {
				t.Error(tap.err)
			}
			tap.mu.Unlock()
			forged := 0
			for _, s := range readCapture(t, capture) {
				if s.Flags&rst != 0 {
					forged++
				}
			}
			if complete && forged < 50 || forged == 0 {
				t.Errorf("%d RSTs on the wire", forged)
			}
			refused := strings.Count(client.Log(), "reset refused") + strings.Count(server.Log(), "reset refused")
			if complete && (refused == 0 || refused > 2) || !complete && refused != 0 {
				t.Errorf("%d lines about refused resets", refused)
			}
			t.Logf("%d forged RSTs on the client's link, %d lines in the logs", forged, refused)
		})
	}
}
