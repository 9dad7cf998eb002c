package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"innertun/cmd/internal/config"
	"innertun/tcpinc/identity"
)

// key is `innertun key gen` and `innertun key show`.
func (p *Program) key(_ context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	out := fs.String("o", config.DefaultKey, "")
	words, ok, exit := p.parseMixed(c, fs, args)
	switch {
	case !ok:
		return exit
	case len(words) == 1 && words[0] == "gen":
		return p.keyGen(c, *out)
	case len(words) == 1 && words[0] == "show":
		return p.keyShow(c, *out)
	case len(words) == 2 && words[0] == "show":
		return p.keyShow(c, words[1])
	case len(words) == 0:
		return p.wrongUsage(c, errors.New("expected gen or show"))
	}
	return p.wrongUsage(c, fmt.Errorf("unexpected argument %q", words[len(words)-1]))
}

// keyGen writes a new key and prints the public one, for the [[peer]] of others.
func (p *Program) keyGen(c *command, name string) int {
	key, err := identity.Generate(nil)
	if err != nil {
		return p.failed(c, err)
	}
	defer clear(key)
	if err := identity.CreateFile(name, key); err != nil {
		return p.failed(c, err)
	}
	return p.keyShow(c, name)
}

func (p *Program) keyShow(c *command, name string) int {
	key, err := identity.LoadFile(name)
	if err != nil {
		return p.failed(c, err)
	}
	defer clear(key)
	public, err := identity.PublicOf(key)
	if err != nil {
		return p.failed(c, err)
	}
	fmt.Fprintln(p.Stdout, public)
	return ExitGood
}

const keyText = `
The key by which this host proves to peers who it is. Both print its public half, for key in
the [[peer]] of other hosts. openssl pkey -in FILE reads the file too.

  gen                     make a key; a file that is there is never overwritten
  show [FILE]             print the public key of FILE
  -o FILE                 the key's file (default ` + config.DefaultKey + `)
`
