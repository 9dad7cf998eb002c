package decode

import (
	"bytes"
	"errors"
	"fmt"
)

const exIDProof = 0x4962

// openProof checks and decrypts the proof in the SYN-ACK-U, if it has one.
func (s *Session) openProof(log []Keys) error {
	n := s.Negotiation
	if n.UpgradedA == nil || n.UpgradedB == nil {
		return nil
	}
	sealed, err := n.UpgradedB.message(exIDProof)
	if sealed == nil || err != nil {
		return err
	}
	if init2, err := n.UpgradedB.init(); init2 == nil || err != nil {
		return errors.Join(err, errors.New("a proof in a SYN-ACK-U without Init2: there is no key for it"))
	}
	for _, k := range log {
		if !k.Proof || !bytes.Equal(k.SessionID, s.Keys.SessionID) {
			continue
		}
		p, err := openFrames(sealed, 0, [][]byte{k.BA}, k.Cipher)
		if err == nil && (p.Frames != 1 || p.Truncated > 0 || p.FINp || p.Rekeys > 0) {
			err = errors.New("not one whole frame")
		}
		if err != nil {
			return fmt.Errorf("the proof in the SYN-ACK-U: %w", err)
		}
		s.Proof = p.Data
		return nil
	}
	return errors.New("no TCPCRYPT-PROOF line for the proof in the SYN-ACK-U")
}
