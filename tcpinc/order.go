package tcpinc

import (
	"fmt"
	"slices"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// prefers returns cfg with lists of its own for one connection: what is offered, or accepted, in which order of
// preference. nil keeps the list of cfg.
func (cfg Config) prefers(teps []eno.TEP, ciphers []tcpcrypt.Cipher) Config {
	if teps != nil {
		cfg.TEPs = teps
	}
	if ciphers != nil {
		cfg.Ciphers = ciphers
	}
	return cfg
}

// checkLists finds what could not be used, before the first segment leaves. Errors: ErrConfig of eno and of tcpcrypt.
func (cfg Config) checkLists() error {
	for _, tep := range cfg.TEPs {
		if !slices.Contains(tcpcrypt.TEPs(), tep) {
			return fmt.Errorf("%w: TEP %v is not built", eno.ErrConfig, tep)
		}
	}
	if len(cfg.Ciphers) == 0 {
		return fmt.Errorf("%w: no cipher to offer", tcpcrypt.ErrConfig)
	}
	for i, c := range cfg.Ciphers {
		if !slices.Contains(tcpcrypt.Ciphers(), c) {
			return fmt.Errorf("%w: unknown %v", tcpcrypt.ErrConfig, c)
		}
		if slices.Contains(cfg.Ciphers[:i], c) {
			return fmt.Errorf("%w: %v is there twice", tcpcrypt.ErrConfig, c)
		}
	}
	return nil
}
