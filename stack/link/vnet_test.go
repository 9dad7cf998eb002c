package link

import (
	"bytes"
	"errors"
	"testing"
)

func TestVnetHeader(t *testing.T) {
	h := vnetHeader{flags: vnetNeedsChecksum, gsoType: vnetGSOTCPv6, headerLen: 0x0102, gsoSize: 0x0304, csumStart: 0x0506, csumOffset: 0x0708}
	b := appendVnetHeader([]byte("x"), h)
	if len(b) != 1+vnetHeaderLen || b[0] != 'x' {
		t.Fatalf("appended %x", b)
	}
	got, n, err := parseVnetHeader(b[1:])
	if err != nil || n != vnetHeaderLen || got != h {
		t.Fatalf("got %+v, %d, %v; want %+v", got, n, err, h)
	}
	for i := range vnetHeaderLen {
		if _, n, err := parseVnetHeader(b[1 : 1+i]); !errors.Is(err, errShortVnetHeader) || n != 0 {
			t.Errorf("%d octets: %d, %v", i, n, err)
		}
	}
}

func TestVnetVouched(t *testing.T) {
	for flags, want := range map[uint8]bool{0: false, vnetNeedsChecksum: true, vnetDataValid: true, 4: false} {
		if got := (vnetHeader{flags: flags}).checksumVouched(); got != want {
			t.Errorf("flags %d: %t", flags, got)
		}
	}
}

func FuzzVnetHeader(f *testing.F) {
	f.Add(appendVnetHeader(nil, vnetHeader{flags: 1, gsoType: 1, headerLen: 66, gsoSize: 1448, csumStart: 34, csumOffset: 16}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := parseVnetHeader(b)
		if err != nil {
			if n != 0 || h != (vnetHeader{}) {
				t.Fatalf("error with %+v, %d", h, n)
			}
			return
		}
		if again := appendVnetHeader(nil, h); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x became %x", b[:n], again)
		}
	})
}
