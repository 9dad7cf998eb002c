package stacktest

import (
	"time"

	"innertun/stack/virtual"
)

// Quiet is virtual.Quiet.
func Quiet(limit time.Duration) bool { return virtual.Quiet(limit) }
