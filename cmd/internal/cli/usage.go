package cli

import (
	"fmt"
	"strings"
)

// help lists the commands.
func help() string {
	var b strings.Builder
	b.WriteString(`innertun encrypts the TCP connections of unmodified programs with TCP-ENO and tcpcrypt
(RFC 8547, RFC 8548) wherever the other end can, and leaves them plain where it cannot.

usage: innertun COMMAND [flags]

`)
	for _, c := range commands() {
		if c.summary != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", c.name, c.summary)
		}
	}
	b.WriteString(`
innertun COMMAND -h tells about one of them. Flags may be written -flag or --flag.
Exit status: 0 good, also when ended by SIGINT, SIGTERM or SIGHUP; 1 failed; 2 wrong usage.
`)
	return b.String()
}

const commonFlags = `
  -i, --interface NAME    physical interface (default: that of the default route)
  --policy POLICY         opportunistic: encrypt with whoever can (default);
                          require: encrypt or fail; off: plain TCP; ratchet (not with
                          serve): require, once a destination has encrypted
  --teps LIST             key exchanges, preferred first (default: all that are built)
  --ciphers LIST          aes-128-gcm,aes-256-gcm,chacha20-poly1305, preferred first
  --inner-space WORD      options inside the data: auto: with whoever is known to take them
                          (default); on: tried at first contact too; off: never
  --control PATH          control socket (default /run/innertun/control.sock)
  --keylog FILE           append traffic keys to FILE, to decrypt captures with
  --log-level LEVEL       debug, info (default), warn or error; the log goes to stderr
`

const runText = `
Runs until SIGINT, SIGTERM or SIGHUP, and undoes at its end what it changed on the host.
Without -c the TUN device is all that is enabled: new outgoing TCP connections of
this host over the physical interface go through it.

  -c FILE                 configuration (TOML); flags override it` + commonFlags

const socksText = `
Programs that use the port, such as curl --socks5-hostname 127.0.0.1:1080, get their
connections encrypted where the destination can.

  -listen ADDR            PORT, :PORT or IP:PORT (default 127.0.0.1:1080)` + commonFlags

const serveText = `
Takes a port of the physical interface over from the kernel, and forwards what arrives,
decrypted where the client can encrypt, to a service of this host.

  -listen ADDR            PORT, :PORT or IP:PORT; both families unless an IP is given
  -forward ADDR           IP:PORT of the service, as 127.0.0.1:80` + commonFlags

const statusText = `
Exits 0 once the daemon is ready, 1 if none is there.

  --json                  one JSON object
  --control PATH          control socket (default /run/innertun/control.sock)
`

const connsText = `
Those that ended in the last minute are listed too.

  --json                  one JSON object a line
  --watch                 again every second, until interrupted
  --control PATH          control socket (default /run/innertun/control.sock)
`

const pathsText = `
Shows where connections are plain because the path, or the whole network, failed with
encryption, and when it is tried again; which destinations had encryption; and which speak
Inner Space (upgraded), do not (legacy), or are behind a path that does not carry data in a
SYN (eats-syn-data).

  flush                   forget all faults: encryption is tried everywhere again
  flush DEST              forget everything about a destination (IP or IP:PORT), also that
                          policy ratchet wants encryption of it, and a fault of the network
  --json                  one JSON object a line
  --control PATH          control socket (default /run/innertun/control.sock)
`

const sessionsText = `
Shows the sessions that later connections can be resumed from, a round trip faster than with
fresh keys. Either host may do so. Nothing of it is ever written to disk.

  flush                   drop them all: the next connections exchange fresh keys
  flush DEST              drop those of a host (IP), or those got by opening connections to
                          a port of it (IP:PORT)
  --json                  one JSON object a line
  --control PATH          control socket (default /run/innertun/control.sock)
`

const captureText = `
Writes what the daemon sends and receives on its interface, and nothing else of the host,
as pcapng, until it is interrupted or the daemon ends.

  -w FILE                 the capture; - for the standard output
  --keys                  write the traffic keys of connections that open (or rekey)
                          meanwhile to FILE.keys: whoever has both can read them
  --count N               end after N packets
  --duration TIME         end after this time, as 30s or 5m
  --control PATH          control socket (default /run/innertun/control.sock)
`

const downText = `
Needed only after a daemon was killed with SIGKILL; the next start does the same.

  --control PATH          control socket of that daemon (default /run/innertun/control.sock)
`
