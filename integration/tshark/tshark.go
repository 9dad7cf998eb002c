// Package tshark runs the project's Wireshark dissector in tshark, as a researcher does, and reads what it prints.
package tshark

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const timeout = 10 * time.Minute

// Script is the path of the dissector.
func Script() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..", "docs", "wireshark", "innertun.lua")
}

// Options are what tshark is told besides the capture.
type Options struct {
	KeyLog string // "": none
	Filter string // display filter
	// TwoPass reads the capture twice, as Wireshark's window does when it is looked at.
	TwoPass bool
	// Preferences are more of the form name:value.
	Preferences []string
	Script      string // "": the dissector
}

func (o Options) run(t testing.TB, file string, args ...string) string {
	t.Helper()
	script := o.Script
	if script == "" {
		script = Script()
	}
	all := []string{"-X", "lua_script:" + script, "-r", file}
	for _, p := range append([]string{"innertun.keylog:" + o.KeyLog}, o.Preferences...) {
		if o.Script == "" {
			all = append(all, "-o", p)
		}
	}
	if o.Filter != "" {
		all = append(all, "-Y", o.Filter)
	}
	if o.TwoPass {
		all = append(all, "-2")
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "tshark", append(all, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The user's own preferences and plugins stay out of it.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "INNERTUN_KEYLOG=")
	err := cmd.Run()
	for line := range strings.Lines(stderr.String()) {
		if !strings.Contains(line, "This could be dangerous") && strings.TrimSpace(line) != "" {
			t.Errorf("tshark: %s", strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Fatalf("tshark %s: %v", strings.Join(all, " "), err)
	}
	if out := stdout.String(); strings.Contains(out, "Lua Error") {
		t.Fatalf("the dissector failed: %.2000s", out[strings.Index(out, "Lua Error"):])
	}
	return stdout.String()
}

// Packet holds the values of the fields that were asked for, as tshark prints them.
type Packet map[string][]string

// One returns a field's only value, or says what is there instead.
func (p Packet) One(field string) string {
	if v := p[field]; len(v) == 1 {
		return v[0]
	} else if len(v) > 1 {
		return fmt.Sprintf("%d values", len(v))
	}
	return ""
}

// Fields returns the fields of each packet that has any of them, which always has "frame.number" too.
func (o Options) Fields(t testing.TB, file string, fields ...string) []Packet {
	t.Helper()
	fields = append([]string{"frame.number", "_ws.malformed", "_ws.expert.message"}, fields...)
	args := []string{"-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;", "-E", "separator=/t"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var packets []Packet
	for line := range strings.Lines(o.run(t, file, args...)) {
		p, any := make(Packet), false
		for i, v := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			if v != "" {
				p[fields[i]] = strings.Split(v, ";")
				any = any || i > 2
			}
		}
		if p["_ws.malformed"] != nil {
			t.Errorf("packet %s is malformed", p.One("frame.number"))
		}
		if any {
			packets = append(packets, p)
		}
	}
	return packets
}

// Values returns all values of one field, in the order of the packets.
func (o Options) Values(t testing.TB, file, field string) (all []string) {
	t.Helper()
	for _, p := range o.Fields(t, file, field) {
		all = append(all, p[field]...)
	}
	return all
}

// Text returns what tshark prints by itself, one line a packet, or with -V everything.
func (o Options) Text(t testing.TB, file string, args ...string) string {
	t.Helper()
	return o.run(t, file, args...)
}
