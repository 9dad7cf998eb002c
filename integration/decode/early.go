package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const exIDEarlyData = 0x4967

// openEarly checks and decrypts the payload of the SYN-U, if it has one.
func (s *Session) openEarly(log []Keys) error {
	n := s.Negotiation
	if n.UpgradedA == nil || n.UpgradedB == nil || len(n.UpgradedA.Payload) == 0 {
		return nil
	}
	payload := n.UpgradedA.Payload
	s.EarlyPayload = len(payload)
	verdict := verdictIn(n.UpgradedB.Options())
	accepted := len(verdict) == 3 && verdict[0] == 1
	switch {
	case accepted && !s.Resumed:
		return errors.New("early data was accepted, and no session resumed")
	case accepted && int(binary.BigEndian.Uint16(verdict[1:])) != len(payload):
		return fmt.Errorf("the verdict % x is on other early data than %d octets", verdict, len(payload))
	}
	if said := verdictIn(s.AtoB.Inner); s.Resumed && len(s.AtoB.Data) > 0 && !bytes.Equal(said, verdict) {
		return fmt.Errorf("host B says % x of the early data, host A has understood % x", verdict, said)
	}
	if !accepted {
		return nil
	}
	for _, k := range log {
		if !k.Early || !bytes.Equal(k.SessionID, s.Keys.SessionID) {
			continue
		}
		key := k.AB
		if s.Reversed {
			key = k.BA
		}
		p, err := openFrames(payload, 0, [][]byte{key}, k.Cipher)
		if err == nil && (p.Frames != 1 || p.Truncated > 0 || p.FINp || p.Rekeys > 0) {
			err = errors.New("not one whole frame")
		}
		if err != nil {
			return fmt.Errorf("early data: %w", err)
		}
		s.Early = p.Data
		s.AtoB.Data = append(append([]byte(nil), p.Data...), s.AtoB.Data...)
		return nil
	}
	return errors.New("no TCPCRYPT-EARLY line for the early data")
}

// verdictIn returns what is said of early data; nil: nothing.
func verdictIn(all []InnerOption) []byte {
	for _, o := range all {
		if o.Kind == kindExperiment && o.ExID == exIDEarlyData {
			return o.Data
		}
	}
	return nil
}
