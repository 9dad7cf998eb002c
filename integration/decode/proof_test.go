package decode

import (
	"slices"
	"strings"
	"testing"

	"innertun/integration/tshark"
)

const proofText = "ITH1\x00\x09\x01\x00\x06abcdef"

// proofWorld is a connection whose SYN-ACK-U has a sealed proof, and the line of the key log for that.
func proofWorld(t *testing.T) (u *upgradedWorld, line string) {
	const aes = CipherAES128GCM
	u = newUpgraded()
	s := &sealer{t: t, cipher: aes, key: trafficKey(t, "ba9", aes)}
	sealed := s.frame(0, 0, []byte(proofText))
	u.synAckU = inSpace(nil, words(synAckENO, experiment(exIDInit, init2(aes)), experiment(exIDProof, sealed)), nil)
	line = strings.Replace(keyLogLine(newWorld(false), t, 9, aes), "TCPCRYPT ", "TCPCRYPT-PROOF ", 1)
	return u, strings.Replace(line, " 9 ", " 0 ", 1)
}

func TestProofInSYNACK(t *testing.T) {
	u, text := proofWorld(t)
	f, keys := u.flow(t)
	if s, err := f.Decrypt(append(keys, readKeys(t, text)...)); err != nil || string(s.Proof) != proofText || string(s.AtoB.Data) != "GET /" {
		t.Errorf("%q, %v", s.Proof, err)
	}
	if _, err := f.Decrypt(keys); err == nil || !strings.Contains(err.Error(), "TCPCRYPT-PROOF") {
		t.Errorf("without its keys: %v", err)
	}
	other := readKeys(t, strings.ReplaceAll(text, "a", "b"))
	other[0].SessionID, other[0].A, other[0].B = keys[0].SessionID, keys[0].A, keys[0].B
	if _, err := f.Decrypt(slices.Concat(other, keys)); err == nil || !strings.Contains(err.Error(), "proof") {
		t.Errorf("with other keys: %v", err)
	}
	// Without keys exchanged in the SYNs nobody can have sealed one.
	u.synAckU = inSpace(nil, words(synAckENO, experiment(exIDProof, []byte("sealed?"))), nil)
	f, _ = u.flow(t)
	if _, err := f.Decrypt(keys); err == nil {
		t.Error("a proof without Init2")
	}
}

func TestDissectorProof(t *testing.T) {
	u, text := proofWorld(t)
	w, log := u.world(t)
	shown(t, tshark.Options{KeyLog: writeFile(t, []byte(log+text))}, w.file(t), map[string]string{
		"innertun.proof": hexOf(proofText), "innertun.is.payload": hexOf("answer") + " " + hexOf("GET") + " " + hexOf(" /"), "tcpcrypt.error": "",
	})
	shown(t, tshark.Options{KeyLog: writeFile(t, []byte(log))}, w.file(t), map[string]string{"innertun.proof": "", "tcpcrypt.error": ""})
}
