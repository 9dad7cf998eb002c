package decode

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"innertun/integration/tshark"
)

// spoil turns over bits in the packets of a capture behind the addresses of their IP headers, one octet in so many, and cuts some
// packets short.
func spoil(capture []byte, seed uint64, oneIn int) []byte {
	const fileHeader, recordHeader, ipHeader = 24, 16, 20
	r := rand.New(rand.NewPCG(seed, 0))
	out := append([]byte(nil), capture[:fileHeader]...)
	for rest := capture[fileHeader:]; len(rest) >= recordHeader; {
		record := append([]byte(nil), rest[:recordHeader]...)
		n := binary.LittleEndian.Uint32(record[8:])
		packet := append([]byte(nil), rest[recordHeader:recordHeader+n]...)
		rest = rest[recordHeader+n:]
		for i := ipHeader + 4; i < len(packet); i++ {
			if r.IntN(oneIn) == 0 {
				packet[i] ^= 1 << r.IntN(8)
			}
		}
		if r.IntN(8) == 0 {
			packet = packet[:ipHeader+r.IntN(len(packet)-ipHeader)]
			binary.LittleEndian.PutUint32(record[8:], uint32(len(packet)))
		}
		out = append(append(out, record...), packet...)
	}
	return out
}

// TestDissectorGarbage has captures that are spoilt, and options in upgraded SYNs whose lengths are wrong: the dissector says so,
// and does not fail.
func TestDissectorGarbage(t *testing.T) {
	t.Run("options", func(t *testing.T) {
		w := newWorld(false)
		bad := []byte{253, 9, 0x12, 0x34}
		w.send(AtoB, SYN, nil, inSpace(nil, bad, nil))
		w.send(BtoA, SYN|ACK, nil, inSpace(bad, bad, nil))
		w.send(AtoB, ACK, nil, nil)
		shown(t, tshark.Options{}, w.file(t), map[string]string{"innertun.syn": "1 1", "tcpcrypt.error": "1 1 1"})
	})
	for _, name := range []string{"upgraded", "resumed"} {
		file := filepath.Join("testdata", "captures", name)
		whole, err := os.ReadFile(file + ".pcap")
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(4) {
			spoilt := writeFile(t, spoil(whole, seed, []int{20, 60, 200, 600}[seed]))
			tshark.Options{KeyLog: file + ".keys", TwoPass: seed%2 == 0}.Text(t, spoilt, "-V")
		}
	}
}
