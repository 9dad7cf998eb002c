package tcpinc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

func TestReasonFor(t *testing.T) {
	for _, v := range []struct {
		err  error
		want innerspace.CloseCode
	}{
		{nil, innerspace.CloseUnspecified},
		{errors.New("strange"), innerspace.CloseUnspecified},
		{&tcpinc.IdentityError{Err: tcpinc.ErrNoIdentity}, innerspace.CloseIdentity},
		{&tcpinc.RequiredError{}, innerspace.ClosePolicy},
		{tcpcrypt.ErrIntegrity, innerspace.CloseProtocol},
		{innerspace.ErrBody, innerspace.CloseProtocol},
		{innerspace.ErrTruncated, innerspace.CloseProtocol},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, innerspace.CloseRefused},
		{os.ErrDeadlineExceeded, innerspace.CloseTimeout},
		{context.Canceled, innerspace.CloseShutdown},
		{syscall.ECONNRESET, innerspace.CloseAborted},
		{syscall.EMFILE, innerspace.CloseResources},
		{&tcpinc.CloseError{Reason: innerspace.CloseReason{Code: innerspace.CloseTimeout, Text: "at home"}}, innerspace.CloseTimeout},
	} {
		err := v.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		if got := tcpinc.ReasonFor(err); got.Code != v.want || got.Text != "" {
			t.Errorf("%v: %v, want %v", v.err, got, v.want)
		}
	}
}

func TestCloseErrorIsAReset(t *testing.T) {
	err := fmt.Errorf("relay: %w", &tcpinc.CloseError{Reason: innerspace.CloseReason{Code: innerspace.CloseRefused, Text: "no route"}})
	var closed *tcpinc.CloseError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &closed) || closed.Error() != "the peer has reset the connection: refused: no route" {
		t.Errorf("%v", err)
	}
}
