package decode

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/crypto/chacha20poly1305"
)

// world makes captures by hand: an encoder written from the RFCs for the decoder to be tested with.
type world struct {
	a, b       netip.AddrPort
	seqA, seqB uint32 // next octet of each side
	packets    [][]byte
}

func newWorld(v6 bool) *world {
	w := &world{a: netip.MustParseAddrPort("198.18.1.2:61000"), b: netip.MustParseAddrPort("198.18.2.2:80"),
		seqA: 0xfffffff0, seqB: 7_000} // A's sequence numbers wrap
	if v6 {
		w.a, w.b = netip.MustParseAddrPort("[fd00:1::2]:61000"), netip.MustParseAddrPort("[fd00:2::2]:80")
	}
	return w
}

// put adds one packet as it is.
func (w *world) put(d Direction, flags uint8, seq, ack uint32, options, payload []byte) {
	src, dst := w.a, w.b
	if d == BtoA {
		src, dst = w.b, w.a
	}
	for len(options)%4 != 0 {
		options = append(bytes.Clone(options), 1)
	}
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = byte(20+len(options))<<2, flags
	tcp = append(append(tcp, options...), payload...)
	var p []byte
	if src.Addr().Is4() {
		p = append(make([]byte, 12), 8, 0)
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		p = append(append(p, ip...), tcp...)
		if len(p) < 60 { // Ethernet padding must not become payload
			p = append(p, make([]byte, 60-len(p))...)
		}
	} else {
		p = append(make([]byte, 12), 0x86, 0xdd)
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, 6
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
		p = append(append(p, ip...), tcp...)
	}
	w.packets = append(w.packets, p)
}

// send adds a segment with the next octets of one side.
func (w *world) send(d Direction, flags uint8, options, payload []byte) {
	seq, ack := &w.seqA, w.seqB
	if d == BtoA {
		seq, ack = &w.seqB, w.seqA
	}
	if flags&ACK == 0 {
		ack = 0
	}
	w.put(d, flags, *seq, ack, options, payload)
	*seq += uint32(len(payload))
	if flags&(SYN|FIN) != 0 {
		*seq++
	}
}

func (w *world) pcap(t *testing.T) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	out := pcapgo.NewWriter(&b)
	if err := out.WriteFileHeader(262144, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, p := range w.packets {
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(1, int64(i)*1000), CaptureLength: len(p), Length: len(p)}
		if err := out.WritePacket(ci, p); err != nil {
			t.Fatal(err)
		}
	}
	return bytes.NewReader(b.Bytes())
}

func (w *world) flow(t *testing.T) *Flow {
	t.Helper()
	segs, err := Read(w.pcap(t))
	if err != nil {
		t.Fatal(err)
	}
	flows, strays := Flows(segs)
	if len(flows) != 1 || len(strays) != 0 {
		t.Fatalf("%d flows, %d strays", len(flows), len(strays))
	}
	return flows[0]
}

var (
	synENO    = []byte{69, 4, 0x21, 0x23}
	synAckENO = []byte{69, 4, 0x01, 0x23}
	ackENO    = []byte{69, 2}
)

func (w *world) handshake() {
	w.send(AtoB, SYN, append([]byte{2, 4, 5, 180, 1, 1}, synENO...), nil)
	w.send(BtoA, SYN|ACK, synAckENO, nil)
	w.send(AtoB, ACK, ackENO, nil)
}

func init1(ciphers ...uint16) []byte {
	b := []byte{0x15, 0x10, 0x1a, 0x0e, 0, 0, 0, 0, byte(len(ciphers))}
	for _, c := range ciphers {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	b = append(b, bytes.Repeat([]byte{0xaa}, 64)...)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

func init2(c uint16) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x09, 0x71, 0x05, 0xe0, 0, 0, 0, 0}, c)
	b = append(b, bytes.Repeat([]byte{0xbb}, 64)...)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

// sealer encrypts the frames of one side.
type sealer struct {
	t      *testing.T
	cipher uint16
	key    []byte
	offset uint64
}

func (s *sealer) frame(control, flags byte, data []byte) []byte {
	s.t.Helper()
	n := len(s.key) - 12
	var aead cipher.AEAD
	var err error
	if s.cipher == CipherChaCha20Poly1305 {
		aead, err = chacha20poly1305.New(s.key[:n])
	} else {
		var block cipher.Block
		if block, err = aes.NewCipher(s.key[:n]); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	nonce := bytes.Clone(s.key[n:])
	for i := range 8 {
		nonce[4+i] ^= byte(s.offset >> (56 - 8*i))
	}
	plain := append([]byte{flags}, data...)
	head := []byte{control, 0, 0}
	binary.BigEndian.PutUint16(head[1:], uint16(len(plain)+aead.Overhead()))
	f := aead.Seal(bytes.Clone(head), nonce, plain, head)
	s.offset += uint64(len(f))
	return f
}

// trafficKey makes some key; where it comes from does not matter to a decoder that is given it.
func trafficKey(t *testing.T, name string, cipher uint16) []byte {
	t.Helper()
	n := 44
	if cipher == CipherAES128GCM {
		n = 28
	}
	k, err := hkdf.Key(sha256.New, []byte(name), nil, "", n)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyLogLine(w *world, t *testing.T, generation int, cipher uint16) string {
	t.Helper()
	g := fmt.Sprint(generation)
	return fmt.Sprintf("TCPCRYPT 23%064x %d %s %s %04x %v %v\n", 5, generation,
		hex.EncodeToString(trafficKey(t, "ab"+g, cipher)), hex.EncodeToString(trafficKey(t, "ba"+g, cipher)), cipher, w.a, w.b)
}

func readKeys(t *testing.T, text string) []Keys {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeyLog(name)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
