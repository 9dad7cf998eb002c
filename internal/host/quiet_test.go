package host_test

import (
	"testing"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
)

// The kernel says nothing on the ports while the table is there, on any interface, and a daemon's table may stand beside it.
func TestQuietTable(t *testing.T) {
	peer := hosttest.Pair(t)
	listen(t, ":8080")
	before := map[string]string{
		"198.18.77.1:8080": "open", "[fd77::1]:8080": "open", "198.18.77.1:61000": "refused", "[fd77::1]:61000": "refused", "198.18.77.1:62000": "refused",
	}
	expect(t, peer, before)
	ports, err := host.ParsePorts("8080,61000-61010")
	if err != nil {
		t.Fatal(err)
	}
	table, err := host.NewQuietTable(ports)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, peer, map[string]string{
		"198.18.77.1:8080": "silence", "[fd77::1]:8080": "silence", "198.18.77.1:61000": "silence", "[fd77::1]:61000": "silence", "198.18.77.1:62000": "refused",
	})
	drop, err := host.NewDropTable("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := drop.Close(); err != nil {
		t.Error(err)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	expect(t, peer, before)
}
