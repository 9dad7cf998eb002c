package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

func TestFailureKind(t *testing.T) {
	for want, errs := range map[string][]error{
		"require":     {&tcpinc.RequiredError{}},
		"crowded":     {tcpinc.ErrCrowded},
		"integrity":   {tcpcrypt.ErrIntegrity, tcpcrypt.ErrTruncated, tcpcrypt.ErrBadPublicKey},
		"silent":      {tcpcrypt.ErrPeerSilent},
		"refused":     {&net.OpError{Err: syscall.ECONNREFUSED}},
		"unreachable": {syscall.EHOSTUNREACH, syscall.ENETUNREACH},
		"timeout":     {syscall.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded, tcpinc.ErrNoAnswer},
		"reset":       {syscall.ECONNRESET, syscall.EPIPE},
		"cancelled":   {context.Canceled, net.ErrClosed},
		"other":       {errors.New("x"), tcpcrypt.ErrRekeyOverflow},
	} {
		for _, err := range errs {
			if got := failureKind(fmt.Errorf("wrapped: %w", err)); got != want {
				t.Errorf("%v: %q, want %q", err, got, want)
			}
		}
	}
}
