package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"innertun": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		p := &Program{Stdout: os.Stdout, Stderr: os.Stderr, Version: "v0.0-test", Daemon: fakeDaemon, Down: fakeDown, Demo: fakeDemo}
		os.Exit(p.Main(ctx, os.Args[1:]))
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"status": exitsWith,
		"ready":  waitReady,
	}})
}

// exitsWith runs a command that must end with an exit status: status 2 innertun run --nonsense
func exitsWith(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v: %v, want exit status %s", args[1:], err, args[0])
	}
}

// waitReady waits for the daemon at a control socket, as users do: until status exits 0.
func waitReady(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := control.NewClient(ts.MkAbs(args[0])).Status(context.Background())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("not ready: %v", err)
		}
	}
}

// fakeDaemon tells what it was asked for and answers on the control socket with two connections.
func fakeDaemon(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	fmt.Printf("interface=%s policy=%v teps=%v ciphers=%v inner_space=%v keylog=%s tun=%v", cfg.Egress.Interface,
		cfg.TCPInc.Policy, cfg.TCPInc.TEPs, cfg.TCPInc.Ciphers, cfg.TCPInc.InnerSpace, cfg.KeyLog, cfg.TUN != nil)
	if cfg.SOCKS != nil {
		fmt.Printf(" socks=%v", cfg.SOCKS.Listen)
	}
	for _, s := range cfg.Serve {
		fmt.Printf(" serve=%v:%d>%v", s.Listen.Addr(), s.Listen.Port(), s.Forward)
	}
	fmt.Println()
	log.Debug("a debug line")
	log.Info("an info line")
	switch os.Getenv("DAEMON") {
	case "":
		return nil
	case "fails":
		return fmt.Errorf("the interface is down")
	}
	reg := conns.New(nil)
	reg.Add(conns.Client, netip.AddrPort{}, netip.MustParseAddrPort("198.18.0.1:80")).
		Established(conns.Established{Encrypted: true, TEP: "curve25519", Cipher: "aes-128-gcm"})
	reg.Add(conns.Server, netip.AddrPort{}, netip.MustParseAddrPort("[fd00::1]:61000")).
		Established(conns.Established{FallbackReason: "peer-no-eno"})
	s, err := control.Listen(cfg.Control.Socket, control.Source{Conns: reg.Snapshot, Status: func() control.Status {
		return control.Status{Version: "v0.0-test", PID: os.Getpid(), Uptime: 1, Interface: "eth0", Egress: "packet",
			Active: reg.Active(), Totals: reg.Totals()}
	}, Paths: fakePaths, FlushPaths: fakeFlush, Sessions: fakeSessions, FlushSessions: fakeFlush}, log)
	if err != nil {
		return err
	}
	defer s.Close()
	<-ctx.Done()
	return context.Cause(ctx)
}

func fakePaths() []control.Path {
	return []control.Path{
		{Kind: "network", Network: "eth0 via 198.18.0.254", Fault: "syn-eno-dropped", Failures: 2, FailedAgo: 1000, RetryIn: 1200_000},
		{Kind: "destination", Destination: "198.18.0.1:80", Encrypted: true, EncryptedAgo: 5000, Ratcheted: true},
	}
}

func fakeSessions() []control.Session {
	return []control.Session{
		{Peer: "198.18.0.1:80", TEP: "curve25519", Cipher: "aes-128-gcm", Role: "A", Next: 3, Age: 5000, ExpiresIn: 86395_000},
		{Peer: "fd00::1", TEP: "p256", Cipher: "chacha20-poly1305", Role: "B", Next: 1, ExpiresIn: 3600_000},
	}
}

// fakeFlush tells what it was asked for: 7 for all, else the port.
func fakeFlush(to netip.AddrPort) int {
	if !to.Addr().IsValid() {
		return 7
	}
	return int(to.Port())
}

func fakeDown(_ context.Context, socket string, _ *slog.Logger) error {
	if strings.Contains(socket, "live") {
		return fmt.Errorf("pid 7 is running")
	}
	fmt.Println("down", socket)
	return nil
}

func fakeDemo(_ context.Context, args []string, stdout, _ io.Writer) int {
	fmt.Fprintf(stdout, "demo %q\n", args)
	return ExitGood
}

// Every command has a usage line, each is listed with a summary, and nothing is wider than 100 columns.
func TestUsageTexts(t *testing.T) {
	for _, c := range commands() {
		listed := strings.Contains(help(), "\n  "+c.name+" ")
		if !listed {
			t.Errorf("%s is not listed", c.name)
		}
		for line := range strings.Lines(help() + c.usage() + c.text) {
			if len(line) > 100 {
				t.Errorf("%s: %d columns: %s", c.name, len(line), line)
			}
		}
	}
}

func TestVersionOf(t *testing.T) {
	set := func(kv ...string) (info debug.BuildInfo) {
		for i := 0; i < len(kv); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return info
	}
	for want, info := range map[string]debug.BuildInfo{
		"v1.2.3":                   {Main: debug.Module{Version: "v1.2.3"}},
		"devel":                    {Main: debug.Module{Version: "(devel)"}},
		"devel-0123456789ab":       set("vcs.revision", "0123456789abcdef"),
		"devel-0123456789ab+dirty": set("vcs.revision", "0123456789abcdef", "vcs.modified", "true"),
	} {
		if got := versionOf(&info); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// interrupting is an output that ends a context after so many writes, and knows when they came.
type interrupting struct {
	strings.Builder
	after  int
	cancel func()
	at     []time.Time
}

func (w *interrupting) Write(p []byte) (int, error) {
	if w.at = append(w.at, time.Now()); len(w.at) == w.after {
		w.cancel()
	}
	return w.Builder.Write(p)
}

// A watch shows all every second; it ends well when it is interrupted, and badly when the daemon goes away.
func TestWatch(t *testing.T) {
	path := t.TempDir() + "/s"
	s, err := control.Listen(path, control.Source{Conns: conns.New(nil).Snapshot}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, errs := interrupting{after: 3, cancel: cancel}, strings.Builder{}
	p := &Program{Stdout: &out, Stderr: &errs}
	if code := p.Main(ctx, []string{"conns", "-watch", "-control", path}); code != ExitGood {
		t.Errorf("exit %d: %s", code, errs.String())
	}
	if n := strings.Count(out.String(), "no connections\n"); n != 3 || len(out.at) != 3 {
		t.Fatalf("%d times, %d writes: %q", n, len(out.at), out.String())
	}
	for i := range 2 {
		if pause := out.at[i+1].Sub(out.at[i]); pause < time.Second {
			t.Errorf("again after %v", pause)
		}
	}
	if watchInterval != time.Second {
		t.Errorf("a look every %v", watchInterval)
	}
	s.Close()
	if code := p.Main(t.Context(), []string{"conns", "-watch", "-control", path}); code != ExitFail {
		t.Errorf("exit %d", code)
	}
}
