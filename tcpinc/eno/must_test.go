package eno

import (
	"bytes"
	"testing"
)

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
