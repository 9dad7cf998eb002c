package daemon

import (
	"errors"
	"syscall"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// farewellTime is how long the way out stays open for connections that are being aborted: tcpinc gives each a second, and a machine
// with much else to do may let them begin late.
const farewellTime = 3 * time.Second

// awaitFarewells lets relays, which have been told to end, tell their peers why. None begins any more.
func (d *daemon) awaitFarewells() error {
	done := make(chan struct{})
	go func() {
		d.relays.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(farewellTime):
	}
	return nil
}

// unanswered tells a client why the service that it wants is not to be had, and nothing of where that is.
func unanswered(err error) innerspace.CloseReason {
	reason := tcpinc.ReasonFor(err)
	if reason.Code != innerspace.CloseShutdown && reason.Code != innerspace.CloseResources {
		reason.Code = innerspace.CloseRefused
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		reason.Text = errno.Error()
	}
	return reason
}
