package netlab

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Nginx is a web server in a namespace, with one file of random octets to fetch (/file) and a place to which files
// can be PUT (/up/NAME).
type Nginx struct {
	Data   []byte // what /file holds
	SHA256 string // of Data, hex

	dir string
}

// StartNginx starts Debian's nginx in the namespace at the given addresses, with a file of size octets.
func (h *Host) StartNginx(t testing.TB, size int, listen ...string) *Nginx {
	t.Helper()
	dir := t.TempDir()
	n := &Nginx{Data: make([]byte, size), dir: dir}
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(t.Name()))).Read(n.Data) // never fails
	sum := sha256.Sum256(n.Data)
	n.SHA256 = hex.EncodeToString(sum[:])
	for _, sub := range []string{"root/up", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "root", "file"), n.Data, 0o644); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(nginxConfig(dir, listen)), 0o644); err != nil {
		t.Fatal(err)
	}
	p := h.Start(t, dir, "nginx", "nginx", "-e", filepath.Join(dir, "error.log"), "-c", conf)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("nginx: %s", p.Log())
		}
		if _, err := p.Stop(); err != nil {
			t.Logf("nginx: %v", err)
		}
	})
	for _, at := range listen {
		WaitFor(t, Patience, "nginx at "+at, func() error {
			if p.Exited() {
				errorLog, _ := os.ReadFile(filepath.Join(dir, "error.log")) // may not exist
				t.Fatalf("nginx ended: %s%s", p.Log(), errorLog)
			}
			c, err := h.Dial(t.Context(), "tcp", at)
			if err == nil {
				err = c.Close()
			}
			return err
		})
	}
	return n
}

// Uploaded returns what was PUT to /up/NAME.
func (n *Nginx) Uploaded(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(n.dir, "root", "up", name))
}

func nginxConfig(dir string, listen []string) string {
	var listens strings.Builder
	for _, at := range listen {
		if host, _, err := net.SplitHostPort(at); err == nil && strings.Contains(host, ":") {
			listens.WriteString("    listen " + at + " ipv6only=on backlog=1024;\n")
			continue
		}
		listens.WriteString("    listen " + at + " backlog=1024;\n")
	}
	return strings.NewReplacer("DIR", dir, "    LISTEN\n", listens.String()).Replace(`
daemon off;
user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log DIR/error.log warn;
events { worker_connections 2048; }
http {
  access_log off;
  sendfile on;
  keepalive_timeout 15;
  client_max_body_size 0;
  client_body_temp_path DIR/tmp/body;
  proxy_temp_path DIR/tmp/proxy;
  fastcgi_temp_path DIR/tmp/fastcgi;
  uwsgi_temp_path DIR/tmp/uwsgi;
  scgi_temp_path DIR/tmp/scgi;
  server {
    LISTEN
    root DIR/root;
    location /up/ { dav_methods PUT; }
  }
}
`)
}
