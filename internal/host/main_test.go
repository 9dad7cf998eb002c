package host_test

import (
	"fmt"
	"os"
	"testing"

	"innertun/internal/leak"

	"innertun/internal/host"
)

const childControl = "INNERTUN_HOST_TEST_CONTROL"

// TestMain runs the tests, or, as a child of one of them, a process that changes the host and waits to be killed.
func TestMain(m *testing.M) {
	if control := os.Getenv(childControl); control != "" {
		child(control)
	}
	leak.VerifyTestMain(m)
}

func child(control string) {
	j, err := host.Open(host.Config{Control: control})
	if err == nil {
		err = changeEverything(j)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}
