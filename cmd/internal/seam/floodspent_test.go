package seam

import (
	"bytes"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
)

// A forged SYN whose key exchange is refused, or that is taken back by a forged RST, has cost as much as one that is half-open:
// the bound on those counts it too.
func TestFloodOfRefusedSYNs(t *testing.T) {
	syn := upgradedSYN(t)
	bad := bytes.Clone(syn)
	clear(bad[len(bad)-40:]) // Init1 ends with the public key, behind a nonce: one of low order
	f := &lab.Flood{Rate: 2000, SYN: func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, bad }}
	d, s := flooded(t, f, innerServer)
	defer f.Stop()
	start := clock.Now()
	f.Start()
	exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
	eventually(t, 10*time.Second, "the flood is under way", func() bool { return f.Acted() > 20*maxHalfOpen })
	if state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil || !state.InnerSpace {
		t.Errorf("during: %+v, %v", state, err)
	}
	f.Stop()
	st := s.Stats()
	bound := uint64(maxHalfOpen) * uint64(1+since(start)/(3*time.Second))
	if st.Refused == 0 || st.Refused > bound || st.Fleeting == 0 {
		t.Errorf("%d forged SYNs: %d were refused once there were keys, at most %d; %d answered without being kept", f.Acted(), st.Refused, bound, st.Fleeting)
	}
	eventually(t, 10*time.Second, "it is over", func() bool {
		before := s.Stats().Fleeting
		state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
		return err == nil && state.InnerSpace && s.Stats().Fleeting == before
	})
}
