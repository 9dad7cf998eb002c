package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "innertun"

// listed is what `go list -json` tells of one package.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// rule says what the packages in some folders of the module must not import.
type rule struct {
	name   string
	in     []string // folders it binds; nil: the whole module
	except []string // folders it leaves out
	tests  bool     // judge what their tests import, too
	deep   bool     // judge indirect imports too, not those of tests
	bad    func(path string) bool
}

var rules = []rule{
	{
		name:   "only stack imports gVisor",
		tests:  true,
		except: []string{"stack"},
		bad:    gVisor,
	},
	{
		name:  "the protocols know no netstack, no device and nothing above them",
		tests: true,
		in:    []string{"tcpinc"},
		deep:  true,
		bad: func(p string) bool {
			return gVisor(p) || folder(p, "stack", "tun", "socks", "cmd", "integration", "internal/host")
		},
	},
	{
		name: "ENO is pure: no clock, no network, no goroutines",
		in:   []string{"tcpinc/eno"},
		bad: func(p string) bool {
			return slices.Contains([]string{"context", "crypto/rand", "log/slog", "math/rand", "math/rand/v2", "net", "os",
				"sync", "sync/atomic", "syscall", "time"}, p)
		},
	},
	{
		name: "the hello is pure: no clock, no network, no goroutines",
		in:   []string{"tcpinc/hello"},
		bad: func(p string) bool {
			return slices.Contains([]string{"context", "crypto/rand", "log/slog", "math/rand", "math/rand/v2", "net", "os",
				"sync", "sync/atomic", "syscall", "time"}, p)
		},
	},
	{
		name: "socks imports the standard library only",
		in:   []string{"socks"},
		deep: true,
		bad:  func(p string) bool { return !standard(p) && !folder(p, "socks") },
	},
	{
		name:  "the netstack knows nothing of the protocols it carries",
		tests: true,
		in:    []string{"stack"},
		deep:  true,
		bad:   func(p string) bool { return folder(p, "tcpinc", "tun", "socks", "cmd", "integration") },
	},
	{
		name:  "the device knows no layer above it",
		tests: true,
		in:    []string{"tun"},
		deep:  true,
		bad:   func(p string) bool { return gVisor(p) || folder(p, "stack", "tcpinc", "socks", "cmd", "integration") },
	},
	{
		name:  "internal serves the layers and imports none of them",
		tests: true,
		in:    []string{"internal"},
		deep:  true,
		bad: func(p string) bool {
			return gVisor(p) || folder(p, "stack", "tcpinc", "tun", "socks", "cmd", "integration")
		},
	},
	{
		name:  "the decoder of the tests shares no code with what it checks",
		tests: true,
		in:    []string{"integration/decode"},
		deep:  true,
		bad:   func(p string) bool { return folder(p, "tcpinc", "stack", "cmd", "internal") },
	},
	{
		name:   "the lab works on octets: it imports the standard library only",
		tests:  true,
		in:     []string{"integration/lab"},
		except: []string{"integration/lab/splice", "integration/lab/elements"},
		deep:   true,
		bad:    func(p string) bool { return !standard(p) && !folder(p, "integration/lab") },
	},
	{
		name:  "an element that needs a TCP of its own knows no more of the project than the netstack",
		tests: true,
		in:    []string{"integration/lab/splice", "integration/lab/elements"},
		deep:  true,
		bad:   func(p string) bool { return folder(p, "tcpinc", "tun", "socks", "cmd") },
	},
	{
		name:   "nothing imports a command",
		tests:  true,
		except: []string{"cmd"},
		deep:   true,
		bad:    func(p string) bool { return folder(p, "cmd") },
	},
	{
		name:   "of the tests' own packages, only the lab serves others",
		tests:  true,
		except: []string{"integration"},
		deep:   true,
		bad:    func(p string) bool { return folder(p, "integration") && !folder(p, "integration/lab") },
	},
}

// TestImports holds every package of the module to the rules above.
func TestImports(t *testing.T) {
	packages := list(t)
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			for _, p := range packages {
				if !r.binds(p.ImportPath) {
					continue
				}
				for _, path := range r.violations(p) {
					t.Errorf("%s imports %s: %s", p.ImportPath, path, r.name)
				}
			}
		})
	}
}

// TestRulesSee shows that the rules find what they forbid.
func TestRulesSee(t *testing.T) {
	const tcpip = "gvisor.dev/gvisor/pkg/tcpip"
	for _, c := range []struct {
		p    listed
		want int // rules broken
	}{
		{listed{ImportPath: "innertun/stack/link", Imports: []string{tcpip}, Deps: []string{tcpip}}, 0},
		{listed{ImportPath: "innertun/cmd/innertun", Imports: []string{"innertun/stack"}, Deps: []string{tcpip}}, 0},
		{listed{ImportPath: "innertun/cmd/innertun", Imports: []string{tcpip}}, 1},
		{listed{ImportPath: "innertun/integration", TestImports: []string{tcpip}}, 1},
		{listed{ImportPath: "innertun/tcpinc", Imports: []string{"innertun/tcpinc/eno"}, Deps: []string{tcpip}}, 1},
		{listed{ImportPath: "innertun/tcpinc/eno", Imports: []string{"time"}, Deps: []string{"time"}}, 1},
		{listed{ImportPath: "innertun/tcpinc/eno", TestImports: []string{"math/rand/v2"}}, 0},
		{listed{ImportPath: "innertun/socks", Imports: []string{"go.uber.org/goleak"}}, 1},
		{listed{ImportPath: "innertun/socks", XTestImports: []string{"go.uber.org/goleak"}}, 0},
		{listed{ImportPath: "innertun/stack", XTestImports: []string{"innertun/tcpinc"}}, 1},
		{listed{ImportPath: "innertun/stack", Deps: []string{"innertun/tcpinc"}}, 1},
		{listed{ImportPath: "innertun/integration/decode", Deps: []string{"innertun/tcpinc/tcpcrypt"}}, 1},
		{listed{ImportPath: "innertun/tun", Imports: []string{"innertun/cmd/internal/seam"}}, 2},
		{listed{ImportPath: "innertun/cmd/internal/demo", Imports: []string{"innertun/integration/lab"}}, 0},
		{listed{ImportPath: "innertun/cmd/internal/demo", Imports: []string{"innertun/integration/netlab"}}, 1},
		{listed{ImportPath: "innertun/integration/lab", Deps: []string{"innertun/stack"}}, 1},
		{listed{ImportPath: "innertun/integration/lab/splice", Deps: []string{"innertun/stack", tcpip}}, 0},
		{listed{ImportPath: "innertun/integration/lab/elements", Deps: []string{"innertun/tcpinc"}}, 1},
	} {
		broken := 0
		for _, r := range rules {
			if r.binds(c.p.ImportPath) && len(r.violations(c.p)) > 0 {
				broken++
			}
		}
		if broken != c.want {
			t.Errorf("%+v breaks %d rules, want %d", c.p, broken, c.want)
		}
	}
}

func (r rule) binds(path string) bool {
	return (r.in == nil || folder(path, r.in...)) && !folder(path, r.except...)
}

// violations lists what p imports against the rule.
func (r rule) violations(p listed) []string {
	paths := slices.Clone(p.Imports)
	if r.tests {
		paths = slices.Concat(paths, p.TestImports, p.XTestImports)
	}
	if r.deep {
		paths = append(paths, p.Deps...)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	return slices.DeleteFunc(paths, func(path string) bool { return path == p.ImportPath || !r.bad(path) })
}

// folder reports whether path is one of these folders of the module, or lies in one.
func folder(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return within(path, module+"/"+f) })
}

func gVisor(path string) bool { return within(path, "gvisor.dev/gvisor") }

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// standard reports whether path is of the standard library: such a path, and no other, has no dot in its first element.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && first != module
}

// list asks the go command for every package of the module.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 2 {
		t.Fatalf("go list names %d packages of the module", len(all))
	}
	return all
}
