package daemon

import (
	"innertun/cmd/internal/keylog"
	"innertun/tcpinc"
)

// logKeys hands traffic keys to the captures that want them and to the key log, nil: there is none, and erases them.
func (d *daemon) logKeys(f *keylog.File) func(tcpinc.KeyLogEntry) {
	return func(e tcpinc.KeyLogEntry) {
		d.captures.Log(e)
		if f != nil {
			f.Log(e) // erases
			return
		}
		clear(e.KAB)
		clear(e.KBA)
	}
}
