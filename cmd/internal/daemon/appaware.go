package daemon

import (
	"innertun/cmd/internal/config"
	"innertun/tcpinc"
)

// appAware reports whether connections send the application-aware bit: if the user says so, or if something here speaks
// to its like at the other end. RFC 8547, Section 4.2.
func appAware(c *config.Config) bool {
	return c.TCPInc.AppAware != "auto" || c.TCPInc.RST == tcpinc.AuthenticateResets
}
