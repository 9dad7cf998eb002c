package eno

import (
	"bytes"
	"testing"
)

// What RFC 8547 demands of a host in Sections 4.1 to 4.8, with the test of this package that would fail without it. What
// is demanded of a TEP, of the stack below (SYN data) or of an API is tested there.
var musts = []struct {
	section, text string
	test          func(*testing.T)
}{
	{"4.1", "contents of a non-SYN-form option are empty when sent", TestNonSYNForm},
	{"4.1", "contents of a non-SYN-form option are ignored when received", TestHasNonSYN},
	{"4.1", "several ENO options in a non-SYN segment are as one", TestHasNonSYN},
	{"4.1", "a SYN segment has at most one ENO option", TestSYNHasOneOption},
	{"4.1", "a SYN segment with several ENO options is as one with none", TestFindSYN},
	{"4.1", "a SYN segment with several ENO options disables encryption", TestBadOptionDisables},
	{"4.2", "at most one global suboption is sent", TestOptionVectors},
	{"4.2", "all but the first global suboption are ignored", TestParseLenient},
	{"4.2", "all but the first global suboption are ignored in a negotiation", TestPassivePreference},
	{"4.2", "b is 1 for a passive opener", TestPassivePreference},
	{"4.2", "b is 0 for an active opener unless configured", TestFigure9},
	{"4.2", "b can be set to 1 for an active opener", TestFigure12},
	{"4.2", "a is 0 unless configured, and the peer's can be seen", TestApplicationAware},
	{"4.2", "mandatory application-aware mode", TestApplicationAware},
	{"4.2", "z bits are sent as 0", TestZeroBits},
	{"4.2", "z bits are ignored when received", TestPassivePreference},
	{"4.2", "a passive opener's option has an explicit global suboption, a vacuous one too", TestVacuous},
	{"4.3", "equal b bits fail", TestRoleConflicts},
	{"4.4", "suboption data that is not last is given a length", TestOptionVectors},
	{"4.4", "a length byte precedes a TEP identifier with v = 1 only", TestAppendOptionRefuses},
	{"4.4", "data beyond the end, or a length byte before 0x00-0x9f: option ignored", TestParseIllFormed},
	{"4.4", "data beyond the end, or a length byte before 0x00-0x9f: encryption disabled", TestBadOptionDisables},
	{"4.5", "a TEP is valid only if both sent it", TestActiveTakesLastValid},
	{"4.5", "a TEP is valid only if its data are", TestSuboptionData},
	{"4.5", "a TEP repeated without a meaning is not valid", TestPassivePreference},
	{"4.5", "a passive opener sends one TEP, a valid one", TestPassivePreference},
	{"4.5", "the last valid TEP of host B's option is negotiated", TestActiveTakesLastValid},
	{"4.5", "the last valid TEP of host B's option is negotiated, host B being this one", TestFigure12},
	{"4.6", "ENO in every segment until a non-SYN segment has come", TestRetransmissions},
	{"4.6", "ENO in the third segment", TestFigure9},
	{"4.6", "a segment up to the first ACK without ENO, or with an ill-formed option, disables", TestBadOptionDisables},
	{"4.6", "the first ACK without ENO disables", TestFigure11},
	{"4.6", "a SYN without a valid TEP disables", TestFigure10},
	{"4.6", "an incompatible global suboption disables", TestRoleConflicts},
	{"4.6", "a SYN-form option is not altered in retransmissions", TestRetransmissions},
	{"4.6", "a SYN-form option is the same in SYN and SYN-ACK of a simultaneous open", TestFigure12},
	{"4.6", "an altered one is not accepted", TestAlteredSYN},
	{"4.6", "an active opener may leave ENO out from some SYN on, for good", TestGivingUpENO},
	{"4.6", "encryption is on once ACKs with ENO were sent and received, and stays on", TestRetransmissions},
	{"4.6", "a vacuous option falls back", TestVacuous},
	{"4.6", "a passive opener sends no vacuous option unless the SYN had ENO", TestVacuous},
	{"4.6", "once disabled, no ENO is sent any more", TestBadOptionDisables},
	{"4.8", "the transcript is both options as they appeared, host A's first", TestFigure9},
	{"4.8", "the transcript is both options as they appeared, in a simultaneous open too", TestFigure12},
	{"4.8", "the transcript has what the peer sent, octet for octet", TestNothingRetained},
}

func TestMusts(t *testing.T) {
	for _, m := range musts {
		t.Run(m.section+" "+m.text, m.test)
	}
}

// RFC 8547, Sections 4.1 and 11: one option of kind 69, and none of kind 253 beside it.
func TestSYNHasOneOption(t *testing.T) {
	for _, cfg := range []Config{{Offers: offers(tepX, tepY)}, {Offers: offers(tepX), AppAware: true, RoleB: true}, {Vacuous: true}} {
		it := NewIterator(mustNew(t, cfg).AppendOptions(nil, SYN, 40))
		option, ok := it.Next()
		if _, more := it.Next(); !ok || option[0] != Kind || more || it.Err() != nil {
			t.Errorf("%+v sends %x", cfg, option)
		}
	}
}

func TestZeroBits(t *testing.T) {
	for _, cfg := range []Config{
		{}, {AppAware: true}, {MandatoryAppAware: true}, {RoleB: true}, {RoleB: true, AppAware: true}, {Passive: true}, {Passive: true, AppAware: true},
	} {
		cfg.Offers = offers(tepX)
		n := mustNew(t, cfg)
		var sent []byte
		if cfg.Passive {
			n.Receive(SYN, []byte{69, 4, 0x1e, 0x21})
			sent = n.AppendOptions(nil, SYNACK, 40)
		} else {
			sent = n.AppendOptions(nil, SYN, 40)
		}
		o, _, err := ParseOption(sent)
		if err != nil || o.Global&^(PassiveRole|AppAware) != 0 || bytes.Count(sent, []byte{byte(tepX)}) != 1 {
			t.Errorf("%+v sends %x", cfg, sent)
		}
	}
}
