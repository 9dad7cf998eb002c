package tcpinc_test

import (
	"testing"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }
