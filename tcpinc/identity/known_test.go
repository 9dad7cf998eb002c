package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func openKnown(t *testing.T, name string) *Known {
	t.Helper()
	k, err := OpenKnown(name, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKnown(t *testing.T) {
	name := filepath.Join(t.TempDir(), "new", "known_peers")
	k := openKnown(t, name)
	one, two := public(t, 1), public(t, 2)
	if _, ok, err := k.Lookup("198.18.0.2:80"); ok || err != nil {
		t.Errorf("an empty file knows: %v, %v", ok, err)
	}
	if added, err := k.Remember("198.18.0.2:80", one); !added || err != nil {
		t.Errorf("first: %v, %v", added, err)
	}
	if added, err := k.Remember("198.18.0.2:80", one); added || err != nil {
		t.Errorf("again: %v, %v", added, err)
	}
	_, err := k.Remember("198.18.0.2:80", two)
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Old != one || changed.New != two {
		t.Fatalf("another key: %v", err)
	}
	for _, want := range []string{one.String(), two.String(), "innertun peers accept 198.18.0.2:80 " + two.String(), name} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if key, ok, err := k.Lookup("198.18.0.2:80"); key != one || !ok || err != nil {
		t.Errorf("%v, %v, %v", key, ok, err)
	}
	if old, err := k.Accept("198.18.0.2:80", two); err != nil || old == nil || *old != one {
		t.Errorf("accepting: %v, %v", old, err)
	}
	if old, err := k.Accept("[fd00::2]:80", one); err != nil || old != nil {
		t.Errorf("accepting a new one: %v, %v", old, err)
	}
	want := "198.18.0.2:80 " + two.String() + " 2026-01-31T12:00:00Z\n[fd00::2]:80 " + one.String() + " 2026-01-31T12:00:00Z\n"
	if text, err := os.ReadFile(name); err != nil || string(text) != want {
		t.Errorf("the file is\n%swant\n%s%v", text, want, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if known, err := k.Forget("198.18.0.2:80"); !known || err != nil {
		t.Errorf("%v, %v", known, err)
	}
	if known, err := k.Forget("198.18.0.2:80"); known || err != nil {
		t.Errorf("forgotten twice: %v, %v", known, err)
	}
	all, err := openKnown(t, name).List()
	if err != nil || len(all) != 1 || all[0] != (Entry{"[fd00::2]:80", one, noon}) {
		t.Errorf("%v, %v", all, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What others write is seen, comments stay, and a file that makes no sense is an error that names the line.
func TestKnownFileOfOthers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "known_peers")
	k := openKnown(t, name)
	one := public(t, 1)
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# the web server\n\nWWW.example.net.:80   " + one.String() + "\n")
	if key, ok, err := k.Lookup("www.example.net:80"); key != one || !ok || err != nil {
		t.Errorf("%v, %v, %v", key, ok, err)
	}
	if _, err := k.Remember("198.18.0.2:80", one); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if want := "# the web server\n198.18.0.2:80 "; err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("%q, %v, want %q first", text, err, want)
	}
	line := "198.18.0.2:80 " + one.String()
	for text, want := range map[string]string{
		line + "\n" + line + "\n":                        ":2: 198.18.0.2:80 is there twice",
		"#\n198.18.0.2:80\n":                             ":2: a line has 1 words",
		line + " 2026-01-31T12:00:00Z more\n":            ":1: a line has 4 words",
		line + " yesterday\n":                            "is no time",
		line + " 0000-01-01T00:00:00+00:01\n":            "is no time",
		line + " 9999-12-31T23:59:59-00:01\n":            "is no time",
		"198.18.0.2 " + one.String() + "\n":              "is no destination",
		"[fd00::g]:80 " + one.String() + "\n":            "is no destination",
		".:80 " + one.String() + "\n":                    "is no destination",
		".www:80 " + one.String() + "\n":                 "is no destination",
		"www..:80 " + one.String() + "\n":                "is no destination",
		"198.18.0.2:80 ed25519:AAAA\n":                   "is no public key",
		"198.18.0.2:0 " + one.String() + "\n":            "is no destination",
		"198.18.0.2:80 ssh-ed25519:" + one.String() + "": "is no public key",
	} {
		write(text)
		_, _, err := k.Lookup("198.18.0.2:80")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if _, err := k.Remember("198.18.0.9:80", one); err == nil {
			t.Errorf("%q was replaced", text)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := k.Lookup("198.18.0.2:80"); ok || err != nil {
		t.Errorf("the file is gone: %v, %v", ok, err)
	}
}

// Several processes, here several Knowns of one file, write at once: nothing is lost, and of two keys for one destination
// one wins.
func TestKnownConcurrently(t *testing.T) {
	name := filepath.Join(t.TempDir(), "known_peers")
	var all sync.WaitGroup
	var winners atomic.Int32
	var knowns []*Known
	for range 8 {
		k := openKnown(t, name)
		k.wait = time.Minute // the last has to wait for some forty changes, each of which waits for the disk
		knowns = append(knowns, k)
	}
	for i, k := range knowns {
		key := public(t, byte(i+1))
		all.Go(func() {
			for j := range 5 {
				if _, err := k.Remember(fmt.Sprintf("198.18.%d.%d:80", i, j), key); err != nil {
					t.Error(err)
				}
			}
			_, err := k.Remember("198.18.9.9:80", key)
			var changed *ChangedError
			if err == nil {
				winners.Add(1)
			} else if !errors.As(err, &changed) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	entries, err := openKnown(t, name).List()
	if err != nil || len(entries) != 41 || winners.Load() != 1 {
		t.Errorf("%d entries, %d winners, %v", len(entries), winners.Load(), err)
	}
}

func TestOpenKnownThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(file, "known_peers"), dir} {
		if _, err := OpenKnown(name, nil); err == nil || !strings.Contains(err.Error(), "known peers") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFirstUse(t *testing.T) {
	k := openKnown(t, filepath.Join(t.TempDir(), "known_peers"))
	one, two := public(t, 1), public(t, 2)
	remote := netip.MustParseAddrPort("[::ffff:198.18.0.2]:80")
	var told []string
	f := FirstUse{Known: k, Name: "web", Added: func(to string, _ PublicKey) { told = append(told, to) }}
	for range 2 {
		if name, err := f.Authenticate(remote, one); name != "web" || err != nil {
			t.Errorf("%q, %v", name, err)
		}
	}
	if len(told) != 1 || told[0] != "198.18.0.2:80" {
		t.Errorf("told %v", told)
	}
	var changed *ChangedError
	if _, err := f.Authenticate(remote, two); !errors.As(err, &changed) {
		t.Errorf("another key: %v", err)
	}
	f.Destination = "www.example.net:80"
	if _, err := f.Authenticate(remote, two); err != nil {
		t.Errorf("another destination: %v", err)
	}
}

func TestPinned(t *testing.T) {
	one, two := public(t, 1), public(t, 2)
	remote := netip.MustParseAddrPort("198.18.0.2:80")
	if name, err := (Pinned{one: "web"}).Authenticate(remote, one); name != "web" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	_, err := Pinned{one: "web"}.Authenticate(remote, two)
	var unknown *UnknownKeyError
	if !errors.As(err, &unknown) || unknown.Key != two || !strings.Contains(err.Error(), one.String()) || !strings.Contains(err.Error(), two.String()) {
		t.Errorf("%v", err)
	}
	if _, err := (Pinned{}).Authenticate(remote, two); !errors.As(err, &unknown) {
		t.Errorf("nothing pinned: %v", err)
	}
}

func TestDestination(t *testing.T) {
	for s, want := range map[string]string{
		"198.18.0.2:80": "198.18.0.2:80", "[::ffff:198.18.0.2]:80": "198.18.0.2:80", "[FD00:0::2]:080": "[fd00::2]:80",
		"WWW.Example.NET.:80": "www.example.net:80",
	} {
		got, err := ParseDestination(s)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", s, got, err)
		}
		if again, err := ParseDestination(got); err != nil || again != got {
			t.Errorf("%s is not its own form: %s, %v", got, again, err)
		}
	}
}

func FuzzParseKnown(f *testing.F) {
	f.Add([]byte("# c\n198.18.0.2:80 ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= 2026-01-31T12:00:00Z\n"))
	f.Add([]byte("www:1 ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=\n[fd00::1%x]:2 ed25519:\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseKnown("f", b)
		if err != nil {
			return
		}
		text := k.text()
		again, err := parseKnown("f", text)
		if err != nil || string(again.text()) != string(text) {
			t.Fatalf("%q became %q, %v", b, text, err)
		}
	})
}
