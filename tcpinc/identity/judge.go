package identity

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Pinned are the keys that a peer may have, with the names they are known by. It is an authenticator of tcpinc.
type Pinned map[PublicKey]string

// UnknownKeyError says that a peer proved an identity that is none of those it may have.
type UnknownKeyError struct {
	Remote netip.AddrPort
	Key    PublicKey
	Want   []PublicKey
}

func (e *UnknownKeyError) Error() string {
	var want []string
	for _, k := range e.Want {
		want = append(want, k.String())
	}
	text := "no key is allowed"
	switch {
	case len(want) > 8:
		text = fmt.Sprintf("none of the %d that are allowed", len(want))
	case len(want) > 0:
		text = "not " + strings.Join(want, " or ")
	}
	return fmt.Sprintf("%v proved to be %v, %s. Either its key was replaced or it is another host, perhaps in the middle. "+
		"If that key is right, write it into its [[peer]]", e.Remote, e.Key, text)
}

// Authenticate returns the name of a key that is pinned. Error: *UnknownKeyError.
func (p Pinned) Authenticate(remote netip.AddrPort, key PublicKey) (name string, err error) {
	name, ok := p[key]
	if ok {
		return name, nil
	}
	e := &UnknownKeyError{Remote: remote, Key: key}
	for k := range p {
		e.Want = append(e.Want, k)
	}
	slices.SortFunc(e.Want, func(a, b PublicKey) int { return strings.Compare(a.String(), b.String()) })
	return "", e
}

// Recognizes reports whether a key is pinned.
func (p Pinned) Recognizes(_ netip.AddrPort, key PublicKey) bool {
	_, ok := p[key]
	return ok
}

// FirstUse trusts the key that a destination first proves, and no other from then on. It is an authenticator of tcpinc.
type FirstUse struct {
	Known *Known
	// Destination is what the peer is known by, in the form of Destination(); "": its address and port.
	Destination string
	Name        string // what it is called; "": its key
	// Added, if not nil, hears of a destination that is written down now.
	Added func(destination string, key PublicKey)
}

// Authenticate compares the key with the one that is known, or writes it down. Errors: *ChangedError, those of Known.
func (f FirstUse) Authenticate(remote netip.AddrPort, key PublicKey) (name string, err error) {
	to := f.destination(remote)
	known, ok, err := f.Known.Lookup(to)
	switch {
	case err != nil:
		return "", err
	case ok && known != key:
		return "", &ChangedError{Destination: to, Old: known, New: key, File: f.Known.Name()}
	case ok:
		return f.Name, nil
	}
	added, err := f.Known.Remember(to, key)
	if err != nil {
		return "", err
	}
	if added && f.Added != nil {
		f.Added(to, key)
	}
	return f.Name, nil
}

// Recognizes reports whether the key is the one that is written down.
func (f FirstUse) Recognizes(remote netip.AddrPort, key PublicKey) bool {
	known, ok, err := f.Known.Lookup(f.destination(remote))
	return err == nil && ok && known == key
}

func (f FirstUse) destination(remote netip.AddrPort) string {
	if f.Destination != "" {
		return f.Destination
	}
	return Destination(remote.Addr().Unmap().WithZone("").String(), remote.Port())
}
