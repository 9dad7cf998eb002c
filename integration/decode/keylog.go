package decode

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Keys are the traffic keys of one generation of one connection, as a line of a key log gives them:
//
//	TCPCRYPT <session id> <generation> <k_ab> <k_ba> <cipher> <host A ip:port> <host B ip:port>
//
// or, of its early data, one that begins with TCPCRYPT-EARLY; of the proof in its SYN-ACK-U, with TCPCRYPT-PROOF.
type Keys struct {
	Early      bool
	Proof      bool
	SessionID  []byte
	Generation uint64
	AB, BA     []byte // key, then nonce randomizer
	Cipher     uint16
	A, B       netip.AddrPort
}

// ReadKeyLog reads a key log file. Lines that begin with none of these words are left out; a broken one is an error.
func ReadKeyLog(name string) ([]Keys, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Keys
	for sc, line := bufio.NewScanner(f), 1; sc.Scan(); line++ {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 || fields[0] != "TCPCRYPT" && fields[0] != "TCPCRYPT-EARLY" && fields[0] != "TCPCRYPT-PROOF" {
			continue
		}
		k, err := parseKeys(fields)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		all = append(all, k)
	}
	return all, nil
}

func parseKeys(f []string) (k Keys, err error) {
	if len(f) != 8 {
		return k, fmt.Errorf("%d fields, want 8", len(f))
	}
	k.Early, k.Proof = f[0] == "TCPCRYPT-EARLY", f[0] == "TCPCRYPT-PROOF"
	if k.SessionID, err = hex.DecodeString(f[1]); err != nil {
		return k, fmt.Errorf("session id: %w", err)
	}
	if k.Generation, err = strconv.ParseUint(f[2], 10, 64); err != nil {
		return k, fmt.Errorf("generation: %w", err)
	}
	if k.AB, err = hex.DecodeString(f[3]); err != nil {
		return k, fmt.Errorf("k_ab: %w", err)
	}
	if k.BA, err = hex.DecodeString(f[4]); err != nil {
		return k, fmt.Errorf("k_ba: %w", err)
	}
	cipher, err := strconv.ParseUint(f[5], 16, 16)
	if err != nil || len(f[5]) != 4 {
		return k, fmt.Errorf("cipher %q: want four hex digits", f[5])
	}
	k.Cipher = uint16(cipher)
	if k.A, err = netip.ParseAddrPort(f[6]); err != nil {
		return k, fmt.Errorf("host A: %w", err)
	}
	if k.B, err = netip.ParseAddrPort(f[7]); err != nil {
		return k, fmt.Errorf("host B: %w", err)
	}
	return k, nil
}
