package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
	"innertun/tcpinc/identity"
)

// peerStore is what `innertun peers` works on: a daemon, or the file of known peers itself.
type peerStore interface {
	Peers(context.Context) ([]control.Peer, error)
	AcceptPeer(ctx context.Context, destination string, key *identity.PublicKey) (control.AcceptedPeer, error)
	ForgetPeer(ctx context.Context, destination string) (control.ForgottenPeer, error)
}

// peers is `innertun peers`.
func (p *Program) peers(ctx context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	file := fs.String("file", "", "")
	asJSON := fs.Bool("json", false, "")
	words, ok, exit := p.parseMixed(c, fs, args)
	if !ok {
		return exit
	}
	do, err := peersWhat(words)
	if err != nil {
		return p.wrongUsage(c, err)
	}
	var store peerStore = control.NewClient(*socket)
	if *file != "" {
		if store, err = openPeerFile(*file); err != nil {
			return p.failed(c, err)
		}
	}
	if err := do(ctx, p, store, *asJSON); err != nil {
		var absent *control.NotRunningError
		if errors.As(err, &absent) {
			err = fmt.Errorf("%w; without it, name the file of known peers: -file %s", err, config.DefaultKnownPeers)
		}
		return p.failed(c, err)
	}
	return ExitGood
}

type peersDo func(ctx context.Context, p *Program, store peerStore, asJSON bool) error

// peersWhat reads "", "accept DEST [KEY]" or "forget DEST".
func peersWhat(words []string) (peersDo, error) {
	if len(words) == 0 {
		return listPeers, nil
	}
	most := map[string]int{"accept": 3, "forget": 2}[words[0]]
	switch {
	case most == 0:
		return nil, fmt.Errorf("unexpected argument %q", words[0])
	case len(words) < 2:
		return nil, fmt.Errorf("%s needs a destination, IP:PORT or NAME:PORT", words[0])
	case len(words) > most:
		return nil, fmt.Errorf("unexpected argument %q", words[most])
	}
	to, err := identity.ParseDestination(words[1])
	if err != nil {
		return nil, err
	}
	if words[0] == "forget" {
		return func(ctx context.Context, p *Program, s peerStore, asJSON bool) error {
			return forgetPeer(ctx, p, s, asJSON, to)
		}, nil
	}
	var key *identity.PublicKey
	if len(words) == 3 {
		k, err := identity.ParsePublicKey(words[2])
		if err != nil {
			return nil, err
		}
		key = &k
	}
	return func(ctx context.Context, p *Program, s peerStore, asJSON bool) error {
		return acceptPeer(ctx, p, s, asJSON, to, key)
	}, nil
}

func listPeers(ctx context.Context, p *Program, store peerStore, asJSON bool) error {
	all, err := store.Peers(ctx)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if asJSON {
		enc := json.NewEncoder(&b)
		for _, peer := range all {
			if err := enc.Encode(peer); err != nil {
				return err
			}
		}
	} else if err := control.PrintPeers(&b, all); err != nil {
		return err
	}
	_, err = p.Stdout.Write(b.Bytes())
	return err
}

func acceptPeer(ctx context.Context, p *Program, store peerStore, asJSON bool, to string, key *identity.PublicKey) error {
	a, err := store.AcceptPeer(ctx, to, key)
	switch {
	case err != nil:
		return err
	case asJSON:
		return json.NewEncoder(p.Stdout).Encode(a)
	case a.Before == a.Key:
		_, err = fmt.Fprintf(p.Stdout, "%s is known as %s already\n", a.Destination, a.Key)
	case a.Before != "":
		_, err = fmt.Fprintf(p.Stdout, "%s is known as %s from now on, and was as %s\n", a.Destination, a.Key, a.Before)
	default:
		_, err = fmt.Fprintf(p.Stdout, "%s is known as %s from now on\n", a.Destination, a.Key)
	}
	return err
}

func forgetPeer(ctx context.Context, p *Program, store peerStore, asJSON bool, to string) error {
	f, err := store.ForgetPeer(ctx, to)
	switch {
	case err != nil:
		return err
	case asJSON:
		return json.NewEncoder(p.Stdout).Encode(f)
	case f.Known:
		_, err = fmt.Fprintf(p.Stdout, "%s is forgotten\n", f.Destination)
	default:
		_, err = fmt.Fprintf(p.Stdout, "%s was not known\n", f.Destination)
	}
	return err
}

// peerFile is a file of known peers without a daemon; one that runs notices its changes.
type peerFile struct{ known *identity.Known }

func openPeerFile(name string) (peerStore, error) {
	known, err := identity.OpenKnown(name, nil)
	return peerFile{known}, err
}

func (f peerFile) Peers(context.Context) ([]control.Peer, error) {
	all, err := f.known.List()
	var out []control.Peer
	for _, e := range all {
		out = append(out, control.KnownPeer(e, ""))
	}
	return out, err
}

func (f peerFile) AcceptPeer(_ context.Context, to string, key *identity.PublicKey) (a control.AcceptedPeer, err error) {
	if key == nil {
		return a, errors.New("only the daemon knows which key was refused: name the key too")
	}
	old, err := f.known.Accept(to, *key)
	a = control.AcceptedPeer{Destination: to, Key: key.String()}
	if old != nil {
		a.Before = old.String()
	}
	return a, err
}

func (f peerFile) ForgetPeer(_ context.Context, to string) (control.ForgottenPeer, error) {
	known, err := f.known.Forget(to)
	return control.ForgottenPeer{Destination: to, Known: known}, err
}

const peersText = `
Shows who peers are: those of the configuration, those known by the key that they proved
first (auth = "tofu"), and those refused of late.

  accept DEST [KEY]       DEST (IP:PORT or NAME:PORT) has the key from now on; without KEY
                          the one that it was refused for last
  forget DEST             the next connection to DEST makes it known anew
  --file FILE             work on a file of known peers, without the daemon
  --json                  one JSON object a line
  --control PATH          control socket (default /run/innertun/control.sock)
`
